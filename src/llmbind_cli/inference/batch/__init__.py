"""A file of requests as a job: started or gone on with, estimated, done in shards, merged."""

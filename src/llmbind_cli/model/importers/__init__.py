"""Published models of other projects as bundles."""

"""The world of the embedded image generator: things, scenes, pictures and captions of scenes."""

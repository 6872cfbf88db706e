"""Other people's vector files, one file a format; each says how its layers map to ours."""

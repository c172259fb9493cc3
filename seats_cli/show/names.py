"""Names of files, for the command line, which may not import more than it must."""

TRACE_EXTENSIONS = (".json", ".safetensors")

"""The C extension: what pyfuse3 does not forward (locks with their owners, fallocate and the like).

interpose.c is all of it, _interpose.pyi says what Python sees of it. Only `s3vfs.fuse.libfuse` loads it: it has to come
before pyfuse3.
"""

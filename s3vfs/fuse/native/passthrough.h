/* FUSE passthrough: what interpose.c asks of passthrough.c. See there. */
#ifndef S3VFS_PASSTHROUGH_H
#define S3VFS_PASSTHROUGH_H

#include <Python.h>
#include <sys/uio.h>

#define VISIBLE __attribute__((visibility("default")))

/* A session of ours begins. `wanted`: ask the kernel for passthrough, where it offers that. */
void passthrough_begin(int wanted);

/* Its device, known from the mount on; -1 once the session is destroyed. */
void passthrough_device(int fd);

/* The kernel's first request, as it was read. */
void passthrough_saw(const void *request, size_t size);

/* The answer to INIT, on its way to the kernel. */
void passthrough_answer_init(void *init, size_t size);

/* Every other answer on its way to the kernel. */
void passthrough_answer(const struct iovec *iov, int count);

/* For the module's table of functions. */
PyObject *passthrough_agreed(PyObject *module, PyObject *unused);
PyObject *passthrough_backing_open(PyObject *module, PyObject *args);
PyObject *passthrough_backing_close(PyObject *module, PyObject *args);
PyObject *passthrough_carry(PyObject *module, PyObject *args);

#endif

/* Requests that are answered on the way in: what interpose.c asks of front.c. See there. */
#ifndef S3VFS_FRONT_H
#define S3VFS_FRONT_H

#include <Python.h>
#include <sys/types.h>

/* A session of ours begins. `noted`: what Python wants to be called with; NULL: everything goes to pyfuse3. */
void front_begin(PyObject *noted);

/* It is over. */
void front_end(void);

/* In the place of read(2) on its device, which must not block: the next request that is pyfuse3's to answer. Fails with
 * EINTR when there is none. Called with the GIL. */
ssize_t front_read(int fd, void *buffer, size_t size);

/* For the module. */
int front_add_types(PyObject *module);
PyObject *front_more(PyObject *module, PyObject *unused);
PyObject *front_turned(PyObject *module, PyObject *unused);
PyObject *front_allow(PyObject *module, PyObject *args);
PyObject *front_counts(PyObject *module, PyObject *unused);

#endif

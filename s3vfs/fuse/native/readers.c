/* The end of handles that were opened only to read: FLUSH and RELEASE of those that Python has named (`reader`), where
 * nobody has asked for a lock on the file. Nothing is acknowledged by it, so nothing has to hold. Whose handles are gone
 * is told within the same call (front.c). */
#define _GNU_SOURCE
#include "stream.h"

#include <linux/fuse.h>
#include <stdlib.h>

#define TABLE_BITS 12
#define TABLE (1 << TABLE_BITS)
#define MOST_ENDED 256 /* before Python is told */

typedef struct Reader {
    u64 ino, handle;
    struct Reader *next;
} Reader;

static Reader *readers[TABLE];
static u64 ended[MOST_ENDED];
static int ended_count;
u64 taken_ends;

static Reader **bucket(u64 ino)
{
    return &readers[spread(ino, TABLE_BITS)];
}

static Reader **place_of(u64 ino, u64 handle)
{
    Reader **place = bucket(ino);

    while (*place && ((*place)->ino != ino || (*place)->handle != handle))
        place = &(*place)->next;
    return place;
}

static void forget(Reader **place)
{
    Reader *gone = *place;

    *place = gone->next;
    free(gone);
}

int readers_take(int fd, const char *request, size_t size)
{
    const struct fuse_in_header *header = (const void *)request;
    const struct fuse_flush_in *flush = (const void *)(header + 1);
    const struct fuse_release_in *release = (const void *)(header + 1);
    Reader **place;

    if (header->opcode == FUSE_FLUSH && size == sizeof *header + sizeof *flush) {
        if (!*place_of(header->nodeid, flush->fh))
            return 0;
    } else if (header->opcode == FUSE_RELEASE && size == sizeof *header + sizeof *release) {
        place = place_of(header->nodeid, release->fh);
        if (!*place)
            return 0;
        forget(place); /* whoever answers */
        if (ended_count == MOST_ENDED || release->release_flags & FUSE_RELEASE_FLOCK_UNLOCK)
            return 0;
        ended[ended_count++] = release->fh;
    } else {
        return 0;
    }
    taken_ends++;
    front_answer(fd, header->unique, 0, NULL, 0, NULL, 0);
    return 1;
}

int readers_waiting(void)
{
    return ended_count > 0;
}

/* A tuple of handles; NULL where there are none, or with an error. */
PyObject *readers_ended(void)
{
    PyObject *handles;
    int count = ended_count;

    ended_count = 0;
    if (!count || !(handles = PyTuple_New(count)))
        return NULL;
    for (int i = 0; i < count; i++) {
        PyObject *handle = PyLong_FromUnsignedLongLong(ended[i]);

        if (!handle) {
            Py_DECREF(handles);
            return NULL;
        }
        PyTuple_SET_ITEM(handles, i, handle);
    }
    return handles;
}

void readers_clear(void)
{
    for (int i = 0; i < TABLE; i++)
        while (readers[i])
            forget(&readers[i]);
    ended_count = 0;
    taken_ends = 0;
}

static PyObject *add_reader(PyObject *module, PyObject *args)
{
    Reader *reader, **first;
    u64 ino, handle;

    (void)module;
    if (!PyArg_ParseTuple(args, "KK:reader", &ino, &handle))
        return NULL;
    if (!(reader = malloc(sizeof *reader)))
        return PyErr_NoMemory();
    first = bucket(ino);
    *reader = (Reader){ino, handle, *first};
    *first = reader;
    Py_RETURN_NONE;
}

static PyObject *forget_readers(PyObject *module, PyObject *args)
{
    Reader **place;
    u64 ino;

    (void)module;
    if (!PyArg_ParseTuple(args, "K:no_readers", &ino))
        return NULL;
    for (place = bucket(ino); *place;)
        if ((*place)->ino == ino)
            forget(place);
        else
            place = &(*place)->next;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"reader", add_reader, METH_VARARGS, "The end of this handle, which only reads, needs nothing: inode, handle."},
    {"no_readers", forget_readers, METH_VARARGS, "That does not hold any more of any handle of this inode."},
    {NULL, NULL, 0, NULL},
};

int readers_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}

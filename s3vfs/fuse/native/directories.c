/* Directories in which the front may make files: the names that they may have, and their attributes. Python tells of
 * them, and withdraws them; births.c adds what it makes. */
#define _GNU_SOURCE
#include "directories.h"

#include <stdlib.h>

#define TABLE_BITS 10
#define TABLE (1 << TABLE_BITS)
#define MOST_KNOWN 20000 /* beyond that Python tells again of those that are used */
#define NAMES_FIRST 16

static Directory *directories[TABLE];
static int known; /* how many there are */

static Directory **place_of(u64 ino)
{
    Directory **place = &directories[spread(ino, TABLE_BITS)];

    while (*place && (*place)->ino != ino)
        place = &(*place)->next;
    return place;
}

static void forget_directory(Directory **place)
{
    Directory *gone = *place;

    *place = gone->next;
    known--;
    free(gone->names);
    free(gone);
}

void directories_forget(const Lease *lease)
{
    for (int i = 0; i < TABLE; i++)
        for (Directory **place = &directories[i]; *place;)
            if (!lease || ((*place)->lease.seq == lease->seq && (*place)->lease.index == lease->index))
                forget_directory(place);
            else
                place = &(*place)->next;
}

u64 directory_hash(const char *name, size_t size)
{
    u64 hash = 0xCBF29CE484222325ULL;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)name[i]) * 0x100000001B3ULL;
    return hash ? hash : 1;
}

int directory_has(const Directory *self, u64 hash)
{
    for (size_t at = (hash ^ hash >> 32) & (self->places - 1); self->names[at]; at = (at + 1) & (self->places - 1))
        if (self->names[at] == hash)
            return 1;
    return 0;
}

static void put(Directory *self, u64 hash)
{
    size_t at = (hash ^ hash >> 32) & (self->places - 1);

    while (self->names[at])
        at = (at + 1) & (self->places - 1);
    self->names[at] = hash;
    self->count++;
}

int directory_add(Directory *self, u64 hash)
{
    if (directory_has(self, hash))
        return 1;
    if (2 * (self->count + 1) > self->places) {
        Directory wider = {.places = 2 * self->places};

        if (!(wider.names = calloc(wider.places, sizeof *wider.names)))
            return 0;
        for (size_t at = 0; at < self->places; at++)
            if (self->names[at])
                put(&wider, self->names[at]);
        free(self->names);
        self->names = wider.names;
        self->places = wider.places;
    }
    put(self, hash);
    return 1;
}

Directory *directory_find(u64 ino)
{
    return *place_of(ino);
}

void directory_forget(u64 ino)
{
    Directory **place = place_of(ino);

    if (*place)
        forget_directory(place);
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

static PyObject *learn_directory(PyObject *module, PyObject *args)
{
    Directory *directory, **place;
    PyObject *names, *name = NULL;
    u64 ino;
    Lease lease;

    (void)module;
    if (!PyArg_ParseTuple(args, "KKIO:directory", &ino, &lease.seq, &lease.index, &names))
        return NULL;
    if (*(place = place_of(ino)))
        forget_directory(place);
    if (known == MOST_KNOWN)
        directories_forget(NULL);
    if (!(names = PyObject_GetIter(names)))
        return NULL;
    directory = calloc(1, sizeof *directory);
    if (directory)
        directory->names = calloc(NAMES_FIRST, sizeof *directory->names);
    if (!directory || !directory->names)
        goto failed;
    directory->ino = ino;
    directory->lease = lease;
    directory->places = NAMES_FIRST;
    while ((name = PyIter_Next(names))) {
        char *text;
        Py_ssize_t size;

        if (PyBytes_AsStringAndSize(name, &text, &size) < 0 || !directory_add(directory, directory_hash(text, (size_t)size)))
            goto failed;
        Py_CLEAR(name);
    }
    if (PyErr_Occurred())
        goto failed;
    Py_DECREF(names);
    place = place_of(ino);
    *place = directory;
    known++;
    Py_RETURN_NONE;

failed:
    Py_XDECREF(name);
    Py_DECREF(names);
    if (directory)
        free(directory->names);
    free(directory);
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
}

static PyObject *knows_directory(PyObject *module, PyObject *args)
{
    u64 ino;

    (void)module;
    if (!PyArg_ParseTuple(args, "K:knows", &ino))
        return NULL;
    return PyBool_FromLong(*place_of(ino) != NULL);
}

static PyObject *add_named(PyObject *module, PyObject *args)
{
    Directory **place;
    const char *name;
    Py_ssize_t size;
    u64 ino;

    (void)module;
    if (!PyArg_ParseTuple(args, "Ky#:named", &ino, &name, &size))
        return NULL;
    place = place_of(ino);
    if (*place) {
        (*place)->shown = 0;
        if (size && !directory_add(*place, directory_hash(name, (size_t)size)))
            forget_directory(place);
    }
    Py_RETURN_NONE;
}

static PyObject *show_directory(PyObject *module, PyObject *args)
{
    Directory *directory, seen;
    u64 ino;

    (void)module;
    if (!PyArg_ParseTuple(args, "KIIIILLL:show", &ino, &seen.mode, &seen.uid, &seen.gid, &seen.links, &seen.atime_ns,
                          &seen.mtime_ns, &seen.ctime_ns))
        return NULL;
    if ((directory = *place_of(ino))) {
        directory->shown = 1;
        directory->mode = seen.mode;
        directory->uid = seen.uid;
        directory->gid = seen.gid;
        directory->links = seen.links;
        directory->atime_ns = seen.atime_ns;
        directory->mtime_ns = seen.mtime_ns;
        directory->ctime_ns = seen.ctime_ns;
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"directory", learn_directory, METH_VARARGS, "Files may be made in it: inode, lease's seq and index, all its names."},
    {"knows", knows_directory, METH_VARARGS, "Whether files may be made in this directory."},
    {"named", add_named, METH_VARARGS, "The directory has changed, and may have that name now: inode, name or nothing."},
    {"show", show_directory, METH_VARARGS, "Its attributes: inode, mode, uid, gid, links, atime, mtime, ctime (ns)."},
    {NULL, NULL, 0, NULL},
};

int directories_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}

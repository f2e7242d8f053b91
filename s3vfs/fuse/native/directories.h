/* Directories in which the front may make files: what Python has told of them. See births.c. */
#ifndef S3VFS_DIRECTORIES_H
#define S3VFS_DIRECTORIES_H

#include "stream.h"

/* `names`: hashes of all that it may have: one that is not among them is not there. Never 0, which is an empty place.
 * `shown`: the attributes are its own. The kernel forgets them with each birth, and looks at them for the next one. */
typedef struct Directory {
    u64 ino;
    Lease lease;
    int shown;
    uint32_t mode, uid, gid, links;
    i64 atime_ns, mtime_ns, ctime_ns, born_ns; /* the last birth's, CLOCK_BOOTTIME */
    u64 *names;
    size_t count, places; /* a power of 2 */
    struct Directory *next;
} Directory;

Directory *directory_find(u64 ino); /* NULL: it is Python's */
u64 directory_hash(const char *name, size_t size);
int directory_has(const Directory *self, u64 hash);
int directory_add(Directory *self, u64 hash); /* 0: there is no memory for the name */
void directory_forget(u64 ino);
void directories_forget(const Lease *lease); /* those under this lease; NULL: all */
int directories_add(PyObject *module);

#endif

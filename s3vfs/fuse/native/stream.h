/* What front.c, births.c and readers.c share: what the front may do with one inode by itself. */
#ifndef S3VFS_STREAM_H
#define S3VFS_STREAM_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <sys/types.h>

typedef unsigned long long u64;
typedef long long i64;

#define RANGES 16 /* of one stream, before Python is told */

/* What Python has not been told yet of a file that the front has made. */
#define MADE 1
#define CHANGED 2
#define CLOSED 4
#define RELEASED 8
#define SHOWN 16 /* the kernel has been given its attributes */

/* A lease, by its id in the journal. */
typedef struct Lease {
    u64 seq;
    uint32_t index;
} Lease;

/* A file that the front has made: its attributes, as long as nobody else has had a say in them. */
typedef struct Birth {
    int own;      /* what follows still holds */
    int open;     /* its handle is */
    int whole;    /* its bytes are [0, size), all of them unpublished */
    int dated;    /* its access time was set after bytes were written: their publishing takes an op more */
    int apart;    /* an op after the CREATE has changed the row: what is set from then on cannot be part of the CREATE */
    int given;    /* the kernel has these attributes since the last write */
    int news;     /* MADE, CHANGED, CLOSED, RELEASED, SHOWN */
    uint32_t mask; /* of CHANGED: SetattrMask's bits */
    u64 parent, handle;
    Lease lease;
    PyObject *name;
    uint32_t flags, made_mode, mode, uid, gid, made_uid, made_gid;
    i64 size, made_ns, atime_ns, mtime_ns;
    i64 row_ctime_ns; /* that of the inode's row, before its bytes are published */
    i64 changed_ns;   /* when bytes, or attributes after them, were last changed; 0: there are no bytes */
} Birth;

typedef struct Stream {
    PyObject_HEAD
    u64 ino;
    int armed, listed, plain; /* listed: among those that are to be told of; plain: it has no capabilities */
    int fd, log_fd;    /* -1: to be opened with the first write */
    PyObject *path, *log_path, *head; /* bytes; while the files are not there */
    i64 log_at, last_start, last_end; /* the log's end; the range of its last entry, -1 where that may not grow */
    i64 span;                         /* a write that passes a multiple of it is Python's */
    i64 time_ns;                      /* of the last write, CLOCK_REALTIME */
    int count;
    struct { i64 start, end; } ranges[RANGES]; /* since Python was told */
    Birth birth;
    struct Stream *next;                       /* of the same bucket */
} Stream;

/* The bucket of an inode in a table of 2^bits. */
static inline unsigned spread(u64 ino, int bits)
{
    return (unsigned)(ino * 0x9E3779B97F4A7C15ULL >> (64 - bits));
}

/* front.c */
extern PyTypeObject *stream_type;
i64 front_now(int clock);
Stream *front_find(u64 ino);
void front_each(void (*visit)(Stream *, const void *), const void *argument);
int front_list(Stream *stream);      /* it will be told of; 0: too many are */
int front_log_times(Stream *stream, i64 atime_ns, i64 mtime_ns, i64 ctime_ns); /* 0: the disk does not take it */
void front_answer(int fd, u64 unique, int error, const void *body, size_t size, const void *rest, size_t rest_size);

/* births.c */
int births_take(int fd, const char *request, size_t size);
void births_wrote(Stream *stream, i64 start, i64 end, i64 time_ns);
int births_may_write(const Stream *stream); /* 0: Python must hear first of what was changed before */
PyObject *births_news(Stream *stream);      /* a tuple, or None; NULL with an error */
void births_told(int all);
void births_begin(void);
void births_end(void);
int births_add(PyObject *module);
extern u64 taken_births, taken_lookups, taken_changes, taken_closes, taken_looks;

/* readers.c */
int readers_take(int fd, const char *request, size_t size);
int readers_waiting(void); /* whether Python is to be told of any end */
PyObject *readers_ended(void);
void readers_clear(void);
int readers_add(PyObject *module);
extern u64 taken_ends;

#endif

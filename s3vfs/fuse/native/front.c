/* The front: requests that need no decision are answered while they are read, before pyfuse3 sees them.
 *
 * Where libfuse reads the next request from /dev/fuse (interpose.c gives it `front_read` for that), a request that is
 * one of these is done and answered there, and the next one is read, until one comes that is Python's:
 *
 *   WRITE                          into an inode whose Stream is armed: stored in its local file, noted in the log beside
 *                                  it, answered
 *   GETXATTR security.capability   of an inode that is known to have none
 *   FORGET                         nothing is kept for what the kernel knows
 *
 * What Python may rely on:
 *  - All of it happens on the thread of pyfuse3's main loop, inside one call of pyfuse3's, with the GIL. Whatever was
 *    taken is told to Python (`noted`) before that call returns. So no code of that thread ever sees a state that lacks
 *    a write which was answered; there is nothing to drain.
 *  - A write is answered after its bytes, and then its log entry, are in the page cache, as Python does it: a killed
 *    daemon loses neither. The entry's form is that of data/rangelog.py.
 *  - A write is taken whole or left to Python, untouched as far as anybody can know: bytes that it may have stored
 *    belong to a write that is not answered yet.
 *  - What it holds for true is what Python holds for true now: records are applied on the same thread, which withdraws
 *    what they change before the next request is read. So nothing needs a deadline.
 *
 * When nothing is there to be read it looks again for a moment (without the GIL) before it says so: whoever has just
 * had an answer usually asks again at once, and a turn of trio's loop costs more than that moment. Where that does not
 * pay it stops doing it, and with one processor it never does. It never stays longer than LONGEST_NS: other tasks want
 * to run.
 *
 * It knows no policy: Python says which inodes, and how much.
 */
#define _GNU_SOURCE
#include "stream.h"

#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_NS 1000000      /* without a turn of trio's loop */
#define LOOK_AGAIN_NS 40000     /* how long it looks again */
#define MOST_BYTES (256 * 1024) /* larger writes are a worker thread's: they would hold up everybody else */
#define CREDIT 16               /* vain looks in a row, until it gives up looking again */
#define HEAD_BYTES 64           /* of the log, and of an entry: data/rangelog.py */
#define ENTRY_BYTES 32
#define KIND_WRITE 1
#define KIND_TIMES 3
#define UNSET INT64_MIN /* a time that stays as it is */

static const char CAPABILITY[] = "security.capability";

i64 front_now(int clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* -- streams ------------------------------------------------------------------------------------------------------- */

PyTypeObject *stream_type;

#define BUCKET_BITS 12
#define BUCKETS (1 << BUCKET_BITS)
static Stream *buckets[BUCKETS]; /* the streams that exist, by inode: borrowed, they leave with their end */
static Stream *written[64];      /* those that are to be told of: owned */
static int written_count;

static PyObject *noted; /* NULL: there is no front */
static i64 allowance;   /* bytes that may be taken until Python allows more */
static int idle;        /* the last read found nothing */
static int most_credit, credit;
static i64 turned_ns, idle_ns;
static u64 taken_writes, taken_bytes, taken_xattrs, looks, vain_looks;

Stream *front_find(u64 ino)
{
    Stream *stream = buckets[spread(ino, BUCKET_BITS)];

    while (stream && stream->ino != ino)
        stream = stream->next;
    return stream;
}

static void leave(Stream *self)
{
    Stream **place = &buckets[spread(self->ino, BUCKET_BITS)];

    while (*place && *place != self)
        place = &(*place)->next;
    if (*place)
        *place = self->next;
    self->next = NULL;
    self->armed = self->plain = self->birth.own = 0;
}

void front_each(void (*visit)(Stream *, const void *), const void *argument)
{
    for (int i = 0; i < BUCKETS; i++)
        for (Stream *stream = buckets[i]; stream; stream = stream->next)
            visit(stream, argument);
}

int front_list(Stream *stream)
{
    if (!stream->listed) {
        if (written_count == sizeof written / sizeof *written)
            return 0;
        stream->listed = 1;
        written[written_count++] = (Stream *)Py_NewRef((PyObject *)stream);
    }
    return 1;
}

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    Stream *self;
    u64 ino;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K:Stream", names, &ino))
        return NULL;
    if (front_find(ino)) {
        PyErr_SetString(PyExc_ValueError, "the inode has a stream");
        return NULL;
    }
    if (!(self = (Stream *)type->tp_alloc(type, 0)))
        return NULL;
    self->ino = ino;
    self->fd = self->log_fd = -1;
    self->next = buckets[spread(ino, BUCKET_BITS)];
    buckets[spread(ino, BUCKET_BITS)] = self;
    return (PyObject *)self;
}

static void stream_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Stream *self = (Stream *)object;

    leave(self);
    Py_CLEAR(self->path);
    Py_CLEAR(self->log_path);
    Py_CLEAR(self->head);
    Py_CLEAR(self->birth.name);
    type->tp_free(object);
    Py_DECREF(type);
}

static void arm(Stream *self, int fd, int log_fd, i64 log_at, i64 last_start, i64 last_end, i64 span)
{
    self->fd = fd;
    self->log_fd = log_fd;
    self->log_at = log_at;
    self->last_start = last_start;
    self->last_end = last_end;
    self->span = span;
    self->armed = 1;
}

static PyObject *stream_arm(PyObject *object, PyObject *args)
{
    i64 log_at, last_start, last_end, span;
    int fd, log_fd;

    if (!PyArg_ParseTuple(args, "iiLLLL:arm", &fd, &log_fd, &log_at, &last_start, &last_end, &span))
        return NULL;
    if (fd < 0 || log_fd < 0 || log_at < HEAD_BYTES || span <= 0) {
        PyErr_SetString(PyExc_ValueError, "arm: no such file, or no such log");
        return NULL;
    }
    Py_CLEAR(((Stream *)object)->head);
    arm((Stream *)object, fd, log_fd, log_at, last_start, last_end, span);
    Py_RETURN_NONE;
}

static PyObject *stream_arm_new(PyObject *object, PyObject *args)
{
    Stream *self = (Stream *)object;
    PyObject *path, *log_path, *head;
    i64 span;

    if (!PyArg_ParseTuple(args, "SSSL:arm_new", &path, &log_path, &head, &span))
        return NULL;
    if (PyBytes_GET_SIZE(head) != HEAD_BYTES || span <= 0) {
        PyErr_SetString(PyExc_ValueError, "arm_new: no head of a log");
        return NULL;
    }
    Py_XSETREF(self->path, Py_NewRef(path));
    Py_XSETREF(self->log_path, Py_NewRef(log_path));
    Py_XSETREF(self->head, Py_NewRef(head));
    arm(self, -1, -1, HEAD_BYTES, -1, -1, span);
    Py_RETURN_NONE;
}

static PyObject *stream_disarm(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((Stream *)object)->armed = ((Stream *)object)->birth.own = 0;
    Py_RETURN_NONE;
}

static PyObject *stream_set_plain(PyObject *object, PyObject *args)
{
    if (!PyArg_ParseTuple(args, "p:set_plain", &((Stream *)object)->plain))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_end(PyObject *object, PyObject *unused)
{
    (void)unused;
    leave((Stream *)object);
    Py_RETURN_NONE;
}

static PyMethodDef stream_methods[] = {
    {"arm", stream_arm, METH_VARARGS, "Take writes: fd, log fd, log's end, last entry's start and end, span."},
    {"arm_new", stream_arm_new, METH_VARARGS, "Take writes: path, log's path, log's head, span."},
    {"disarm", stream_disarm, METH_NOARGS, "Take no more writes until it is armed again."},
    {"set_plain", stream_set_plain, METH_VARARGS, "Whether the inode is known to have no capabilities."},
    {"end", stream_end, METH_NOARGS, "Take nothing any more; the inode may get another stream."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stream_members[] = {
    {"armed", T_BOOL, offsetof(Stream, armed), READONLY, "Whether it takes writes."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "What the front may do with one inode by itself."},
    {Py_tp_new, stream_new},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "s3vfs.fuse.native._interpose.Stream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = stream_slots,
};

/* -- the log beside the file --------------------------------------------------------------------------------------- */

static void big_endian(unsigned char *place, u64 value, int bytes)
{
    while (bytes--) {
        place[bytes] = (unsigned char)value;
        value >>= 8;
    }
}

static uint32_t rotate(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

static uint32_t word(const unsigned char *place)
{
    return place[0] | (uint32_t)place[1] << 8 | (uint32_t)place[2] << 16 | (uint32_t)place[3] << 24;
}

/* XXH32 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) with seed 0 of an entry's 28 bytes: one stripe of 16, then
 * three words. */
static uint32_t xxh32_of_entry(const unsigned char *body)
{
    const uint32_t p1 = 2654435761U, p2 = 2246822519U, p3 = 3266489917U, p4 = 668265263U;
    uint32_t lanes[4] = {p1 + p2, p2, 0, 0 - p1}, hash;
    int i;

    for (i = 0; i < 4; i++)
        lanes[i] = rotate(lanes[i] + word(body + 4 * i) * p2, 13) * p1;
    hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
    hash += ENTRY_BYTES - 4;
    for (i = 4; i < 7; i++)
        hash = rotate(hash + word(body + 4 * i) * p3, 17) * p4;
    hash = (hash ^ hash >> 15) * p2;
    hash = (hash ^ hash >> 13) * p3;
    return hash ^ hash >> 16;
}

static void make_entry(unsigned char *entry, int kind, i64 first, i64 second, i64 third)
{
    big_endian(entry + 4, (u64)kind, 4);
    big_endian(entry + 8, (u64)first, 8);
    big_endian(entry + 16, (u64)second, 8);
    big_endian(entry + 24, (u64)third, 8);
    big_endian(entry, xxh32_of_entry(entry + 4), 4);
}

static int whole(ssize_t count, size_t size)
{
    return count >= 0 && (size_t)count == size;
}

/* -- writes -------------------------------------------------------------------------------------------------------- */

/* The files of an inode that has had none. */
static int open_files(Stream *self)
{
    if (self->fd < 0)
        self->fd = open(PyBytes_AS_STRING(self->path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (self->fd >= 0 && self->log_fd < 0)
        self->log_fd = open(PyBytes_AS_STRING(self->log_path), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return self->fd >= 0 && self->log_fd >= 0;
}

static int log_write(Stream *self, i64 start, i64 end, i64 time_ns)
{
    unsigned char raw[HEAD_BYTES + ENTRY_BYTES];

    if (self->last_end == start && self->last_end >= 0) { /* goes on where the last one ended: one entry for both */
        make_entry(raw, KIND_WRITE, self->last_start, end - self->last_start, time_ns);
        if (!whole(pwrite(self->log_fd, raw, ENTRY_BYTES, self->log_at - ENTRY_BYTES), ENTRY_BYTES))
            return 0;
    } else if (self->head) {
        memcpy(raw, PyBytes_AS_STRING(self->head), HEAD_BYTES);
        make_entry(raw + HEAD_BYTES, KIND_WRITE, start, end - start, time_ns);
        if (!whole(pwrite(self->log_fd, raw, sizeof raw, 0), sizeof raw))
            return 0;
        Py_CLEAR(self->head);
        self->log_at = sizeof raw;
        self->last_start = start;
    } else {
        make_entry(raw, KIND_WRITE, start, end - start, time_ns);
        if (!whole(pwrite(self->log_fd, raw, ENTRY_BYTES, self->log_at), ENTRY_BYTES))
            return 0;
        self->log_at += ENTRY_BYTES;
        self->last_start = start;
    }
    self->last_end = end;
    return 1;
}

int front_log_times(Stream *self, i64 atime_ns, i64 mtime_ns, i64 ctime_ns)
{
    unsigned char raw[ENTRY_BYTES];

    make_entry(raw, KIND_TIMES, atime_ns, mtime_ns, ctime_ns);
    if (!whole(pwrite(self->log_fd, raw, ENTRY_BYTES, self->log_at), ENTRY_BYTES))
        return 0;
    self->log_at += ENTRY_BYTES;
    self->last_start = self->last_end = -1;
    return 1;
}

void front_answer(int fd, u64 unique, int error, const void *body, size_t size, const void *rest, size_t rest_size)
{
    uint32_t length = (uint32_t)(sizeof(struct fuse_out_header) + size + rest_size);
    struct fuse_out_header header = {.len = length, .error = error, .unique = unique};
    struct iovec parts[3] = {{&header, sizeof header}, {(void *)body, size}, {(void *)rest, rest_size}};

    /* Refused only for a request that nobody waits for any more (ENOENT), or when the mount is gone. */
    if (writev(fd, parts, rest_size ? 3 : size ? 2 : 1) < 0)
        return;
}

static int take_write(int fd, const char *request, size_t size)
{
    const struct fuse_in_header *header = (const void *)request;
    const struct fuse_write_in *write = (const void *)(header + 1);
    struct fuse_write_out reply = {0};
    i64 start, end, time_ns;
    Stream *stream;

    if (size < sizeof *header + sizeof *write || write->size > MOST_BYTES || !write->size ||
        size != sizeof *header + sizeof *write + write->size || (i64)write->size > allowance)
        return 0;
    if (write->flags & (O_APPEND | O_DSYNC | O_SYNC))
        return 0;
    stream = front_find(header->nodeid);
    if (!stream || !stream->armed)
        return 0;
    start = (i64)write->offset;
    if (start < 0 || start > INT64_MAX - write->size)
        return 0;
    end = start + write->size;
    if (start / stream->span != end / stream->span)
        return 0;
    if (stream->count == RANGES && stream->ranges[RANGES - 1].end != start)
        return 0;
    if (!births_may_write(stream) || (!stream->listed && written_count == sizeof written / sizeof *written))
        return 0;
    if ((stream->fd < 0 || stream->log_fd < 0) && !open_files(stream))
        goto failed;
    if (!whole(pwrite(stream->fd, write + 1, write->size, start), write->size))
        goto failed;
    time_ns = front_now(CLOCK_REALTIME);
    if (!log_write(stream, start, end, time_ns))
        goto failed;
    front_list(stream);
    births_wrote(stream, start, end, time_ns);
    if (stream->count && stream->ranges[stream->count - 1].end == start) {
        stream->ranges[stream->count - 1].end = end;
    } else {
        stream->ranges[stream->count].start = start;
        stream->ranges[stream->count++].end = end;
    }
    stream->time_ns = time_ns;
    allowance -= write->size;
    taken_writes++;
    taken_bytes += write->size;
    reply.size = write->size;
    front_answer(fd, header->unique, 0, &reply, sizeof reply, NULL, 0);
    return 1;

failed: /* Python does it again, and tells of the error. It is told of files that are open now. */
    stream->armed = 0;
    stream->birth.own = 0;
    if (stream->fd >= 0)
        front_list(stream);
    return 0;
}

static int take_getxattr(int fd, const char *request, size_t size)
{
    const struct fuse_in_header *header = (const void *)request;
    const char *name = request + sizeof *header + sizeof(struct fuse_getxattr_in);
    Stream *stream;

    if (size != sizeof *header + sizeof(struct fuse_getxattr_in) + sizeof CAPABILITY ||
        memcmp(name, CAPABILITY, sizeof CAPABILITY))
        return 0;
    stream = front_find(header->nodeid);
    if (!stream || !stream->plain)
        return 0;
    taken_xattrs++;
    front_answer(fd, header->unique, -ENODATA, NULL, 0, NULL, 0);
    return 1;
}

static int take(int fd, const char *request, size_t size)
{
    const struct fuse_in_header *header = (const void *)request;

    if (size < sizeof *header || header->len != size)
        return 0;
    if (header->opcode == FUSE_WRITE)
        return take_write(fd, request, size);
    if (header->opcode == FUSE_GETXATTR)
        return take_getxattr(fd, request, size);
    if (header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET)
        return 1; /* they have no answer */
    return births_take(fd, request, size) || readers_take(fd, request, size);
}

/* Calls noted(inode, fd, log fd, log's end, last entry's start, its end, time, ranges, news) for each stream, in the
 * order in which they came, and then noted(handles) for those that have ended. */
static void tell(void)
{
    PyObject *ended, *result;
    int i, at, all = 1;

    for (at = 0; at < written_count; at++) {
        Stream *stream = written[at];
        PyObject *ranges = PyTuple_New(stream->count), *news = births_news(stream);
        int count = stream->count;

        result = NULL;
        stream->listed = stream->count = 0;
        for (i = 0; ranges && i < count; i++) {
            PyObject *range = Py_BuildValue("(LL)", stream->ranges[i].start, stream->ranges[i].end);

            if (!range)
                Py_CLEAR(ranges);
            else
                PyTuple_SET_ITEM(ranges, i, range);
        }
        if (ranges && news && noted)
            result = PyObject_CallFunction(noted, "KiiLLLLOO", stream->ino, stream->fd, stream->log_fd, stream->log_at,
                                           stream->last_start, stream->last_end, stream->time_ns, ranges, news);
        if (!result) { /* what was written down says it to the next mount */
            PyErr_WriteUnraisable(noted);
            all = 0;
        }
        Py_XDECREF(result);
        Py_XDECREF(ranges);
        Py_XDECREF(news);
        Py_DECREF((PyObject *)stream);
    }
    written_count = 0;
    births_told(all);
    ended = readers_ended();
    if (ended && noted) {
        result = PyObject_CallOneArg(noted, ended);
        Py_XDECREF(result);
    }
    Py_XDECREF(ended);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(noted);
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

/* Whoever has had an answer usually asks again at once. */
static ssize_t look_again(int fd, void *buffer, size_t size)
{
    ssize_t length;
    i64 until;

    if (credit <= 0)
        return -1;
    looks++;
    Py_BEGIN_ALLOW_THREADS
    until = front_now(CLOCK_MONOTONIC) + LOOK_AGAIN_NS;
    do {
        length = read(fd, buffer, size);
    } while (length < 0 && errno == EAGAIN && front_now(CLOCK_MONOTONIC) < until);
    Py_END_ALLOW_THREADS
    if (length < 0 && errno == EAGAIN) {
        vain_looks++;
        credit--;
    } else if (credit < most_credit) {
        credit++;
    }
    return length;
}

ssize_t front_read(int fd, void *buffer, size_t size)
{
    i64 began_ns = front_now(CLOCK_MONOTONIC);
    ssize_t length;
    int error;

    for (;;) {
        length = read(fd, buffer, size);
        if (length < 0 && errno == EAGAIN) {
            length = look_again(fd, buffer, size);
            if (length < 0 && errno == EAGAIN) {
                idle = 1;
                idle_ns = front_now(CLOCK_MONOTONIC);
                errno = EINTR;
                break;
            }
        }
        if (length >= 0 && idle) {
            if (front_now(CLOCK_MONOTONIC) - idle_ns < LOOK_AGAIN_NS && credit < most_credit)
                credit++; /* it would have paid */
            idle = 0;
        }
        if (length < 0 || !noted || !take(fd, buffer, (size_t)length))
            break;
        if (front_now(CLOCK_MONOTONIC) - began_ns > LONGEST_NS) {
            length = -1;
            errno = EINTR;
            break;
        }
    }
    if (written_count || readers_waiting()) {
        error = errno;
        tell();
        errno = error;
    }
    return length;
}

void front_begin(PyObject *callable)
{
    cpu_set_t processors;

    front_end();
    most_credit = sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) > 1 ? CREDIT : 0;
    noted = Py_XNewRef(callable);
    allowance = 0;
    idle = 0;
    credit = most_credit;
    turned_ns = 0;
    taken_writes = taken_bytes = taken_xattrs = looks = vain_looks = 0;
    births_begin();
    readers_clear();
}

void front_end(void)
{
    Py_CLEAR(noted);
    births_end();
    readers_clear();
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

PyObject *front_more(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(!idle && front_now(CLOCK_MONOTONIC) - turned_ns < LONGEST_NS);
}

PyObject *front_turned(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    turned_ns = front_now(CLOCK_MONOTONIC);
    Py_RETURN_NONE;
}

PyObject *front_allow(PyObject *module, PyObject *args)
{
    i64 more;

    (void)module;
    if (!PyArg_ParseTuple(args, "L:allow", &more))
        return NULL;
    allowance += more;
    return PyLong_FromLongLong(allowance);
}

PyObject *front_counts(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsK}", "writes", taken_writes, "written_bytes", taken_bytes, "xattrs",
                         taken_xattrs, "looks", looks, "vain_looks", vain_looks, "creates", taken_births, "lookups",
                         taken_lookups, "setattrs", taken_changes, "closes", taken_closes, "getattrs", taken_looks,
                         "ends", taken_ends);
}

int front_add_types(PyObject *module)
{
    stream_type = (PyTypeObject *)PyType_FromSpec(&stream_spec);
    if (!stream_type || PyModule_AddObjectRef(module, "Stream", (PyObject *)stream_type) < 0)
        return -1;
    return births_add(module) < 0 ? -1 : readers_add(module);
}

/* New files without Python: what a program does to a file that it has just made, in a directory that only it works in.
 *
 *   LOOKUP    of a name that a directory does not have: ENOENT
 *   CREATE    there: the next of the files that Python has prepared (`stock`)
 *   SETATTR   of mode, owner and times; GETATTR; FLUSH; RELEASE; of such a file, until somebody else has a say in it
 *
 * The conditions are Python's: which directories, under which lease, for how long it may rely on its leases (R8), how
 * many bytes may be closed. It withdraws what does not hold any more before the next request is read, since all that
 * changes it happens on the same thread. What is answered here is told within the same call (front.c), as one piece of
 * news for each file, and Python then does what it would have done.
 *
 * A kill between an answer and that loses nothing: each answer is written down first, in a file that is mapped
 * (`write_down`), from which the next daemon takes it. Its form, all little-endian, is session/front_log.py's:
 *
 *   u32 length of the entry, a multiple of 8, 0 behind the last; u32 kind; Event; name, padded with zeros
 */
#define _GNU_SOURCE
#include "directories.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STOCK 256
#define SECOND_NS 1000000000LL
#define UNSET INT64_MIN
#define SECTOR_BYTES 512
#define ALLOCATION_BYTES 4096 /* fuse/attributes.py, likewise */
#define DIRECTORY_BYTES 4096

/* namespace/ops.py: SetattrMask */
#define MASK_MODE 1
#define MASK_UID 2
#define MASK_GID 4
#define MASK_ATIME 16
#define MASK_MTIME 32
#define MASK_IDENTITY (MASK_MODE | MASK_UID | MASK_GID)

#define PLAIN_FLAGS (O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | 0100000)
#define ASKS (FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_ATIME | FATTR_MTIME)
/* There are no privileges to be killed: a file with any is Python's. */
#define ASKS_AND_MORE \
    (ASKS | FATTR_FH | FATTR_ATIME_NOW | FATTR_MTIME_NOW | FATTR_LOCKOWNER | FATTR_KILL_SUIDGID)
#ifndef FATTR_KILL_SUIDGID /* Linux 5.11 */
#define FATTR_KILL_SUIDGID (1 << 11)
#endif
#define HANDLES (1ULL << 62) /* ours begin here, Python's at 1 */

u64 taken_births, taken_lookups, taken_changes, taken_closes, taken_looks;

static i64 until_ns;           /* CLOCK_BOOTTIME: so long leases may be relied on */
static i64 closing, close_most; /* bytes that may be closed, altogether and in one file */
static u64 last_handle;
static i64 entry_ns, attributes_ns; /* how long the kernel may keep names and attributes */
static uint32_t block_size;

static int trusted(void)
{
    return until_ns && front_now(CLOCK_BOOTTIME) < until_ns;
}

static i64 later(i64 one, i64 other)
{
    return one > other ? one : other;
}

/* -- what is written down ------------------------------------------------------------------------------------------ */

typedef struct Event {
    u64 lease_seq, ino, parent;
    i64 time_ns, atime_ns, mtime_ns;
    uint32_t lease_index, mask, mode, uid, gid, name_size;
} Event;

static char *page; /* NULL: nothing can be, and so nothing is answered */
static size_t page_size, page_first, page_used;
static int kept; /* something of it was told in vain: it stays for the next daemon, and so does what follows */

static int write_down(uint32_t kind, const Event *event, const char *name)
{
    size_t size = 8 + sizeof *event + ((event->name_size + 7) & ~7U);
    char *entry = page + page_used;

    if (!page || page_used + size + 8 > page_size)
        return 0;
    memset(entry + size - 8, 0, 16); /* the padding, and the end of what follows */
    memcpy(entry + 8, event, sizeof *event);
    memcpy(entry + 8 + sizeof *event, name, event->name_size);
    memcpy(entry + 4, &kind, sizeof kind);
    __atomic_store_n((uint32_t *)entry, (uint32_t)size, __ATOMIC_RELEASE); /* only now it counts */
    page_used += size;
    return 1;
}

void births_told(int all)
{
    kept |= !all;
    if (page && !kept && page_used > page_first) {
        page_used = page_first;
        __atomic_store_n((uint32_t *)(page + page_first), 0, __ATOMIC_RELEASE);
    }
}

static Event event_of(const Stream *stream)
{
    const Birth *birth = &stream->birth;

    return (Event){
        .lease_seq = birth->lease.seq, .lease_index = birth->lease.index, .ino = stream->ino, .parent = birth->parent,
        .mode = birth->mode, .uid = birth->uid, .gid = birth->gid,
    };
}

/* -- attributes ---------------------------------------------------------------------------------------------------- */

/* That of the row once Python has heard. Mode and owner of a file with bytes are set by the CREATE, or by an op. */
static i64 row_ctime_of(const Birth *birth)
{
    if (birth->changed_ns && birth->apart && birth->mask & MASK_IDENTITY)
        return later(birth->row_ctime_ns + 1, birth->changed_ns);
    return birth->row_ctime_ns;
}

/* As namespace/ and data/ will have it: the op that publishes the bytes moves ctime, and one more sets atime. */
static i64 ctime_of(const Birth *birth)
{
    i64 row_ns = row_ctime_of(birth);

    return birth->changed_ns ? later(row_ns + 1, birth->changed_ns) + birth->dated : row_ns;
}

static void split(i64 time_ns, uint64_t *seconds, uint32_t *nanoseconds)
{
    i64 whole = time_ns / SECOND_NS - (time_ns % SECOND_NS < 0);

    *seconds = (uint64_t)whole;
    *nanoseconds = (uint32_t)(time_ns - whole * SECOND_NS);
}

static void fill(struct fuse_attr *attr, u64 ino, i64 size, i64 atime_ns, i64 mtime_ns, i64 ctime_ns)
{
    memset(attr, 0, sizeof *attr);
    attr->ino = ino;
    attr->size = (uint64_t)size;
    attr->blocks = (uint64_t)((size + ALLOCATION_BYTES - 1) / ALLOCATION_BYTES * (ALLOCATION_BYTES / SECTOR_BYTES));
    split(atime_ns, &attr->atime, &attr->atimensec);
    split(mtime_ns, &attr->mtime, &attr->mtimensec);
    split(ctime_ns, &attr->ctime, &attr->ctimensec);
    attr->blksize = block_size;
}

static void fill_newborn(struct fuse_attr *attr, const Stream *stream)
{
    const Birth *birth = &stream->birth;

    fill(attr, stream->ino, birth->size, birth->atime_ns, birth->mtime_ns, ctime_of(birth));
    attr->mode = birth->mode;
    attr->nlink = 1;
    attr->uid = birth->uid;
    attr->gid = birth->gid;
}

int births_may_write(const Stream *stream)
{
    const Birth *birth = &stream->birth;

    /* Times that were set on the empty file are an op of their own, before the bytes. */
    return !(birth->news & CHANGED) || birth->changed_ns || !(birth->mask & (MASK_ATIME | MASK_MTIME));
}

void births_wrote(Stream *stream, i64 start, i64 end, i64 time_ns)
{
    Birth *birth = &stream->birth;

    if (!birth->own)
        return;
    if (start != birth->size)
        birth->whole = 0;
    birth->size = later(birth->size, end);
    birth->mtime_ns = birth->changed_ns = time_ns;
    birth->mask &= ~(uint32_t)MASK_MTIME;
    birth->given = 0;
}

/* -- requests ------------------------------------------------------------------------------------------------------ */

static Stream *stock[STOCK]; /* owned, in the order of their inodes */
static unsigned stock_first, stock_count;

static Stream *from_stock(void)
{
    Stream *stream = stock[stock_first];

    stock_first = (stock_first + 1) % STOCK;
    stock_count--;
    return stream;
}

/* The directory, where the name is not there for sure. */
static Directory *absent(u64 ino, const char *name, size_t size, u64 *hash)
{
    Directory *directory = directory_find(ino);

    if (!directory || !size || size > NAME_MAX || !trusted() || (name[0] == '.' && size < 3 && name[size - 1] == '.'))
        return NULL;
    *hash = directory_hash(name, size);
    return directory_has(directory, *hash) ? NULL : directory;
}

static int take_lookup(int fd, const struct fuse_in_header *header, const char *name, size_t size)
{
    u64 hash;

    if (!absent(header->nodeid, name, size, &hash))
        return 0;
    taken_lookups++;
    front_answer(fd, header->unique, -ENOENT, NULL, 0, NULL, 0);
    return 1;
}

static int take_create(int fd, const struct fuse_in_header *header, const struct fuse_create_in *create,
                       const char *name, size_t size)
{
    struct fuse_entry_out entry = {0};
    struct fuse_open_out opened = {0};
    uint32_t mode = S_IFREG | (create->mode & ~create->umask & 0777);
    Directory *directory;
    Stream *stream;
    Event event;
    PyObject *text;
    i64 now_ns;
    u64 hash;

    if (create->flags & ~(uint32_t)PLAIN_FLAGS || create->open_flags || create->mode & 07000 ||
        !S_ISREG(create->mode) || !stock_count || (create->flags & O_ACCMODE) == O_RDONLY)
        return 0;
    directory = absent(header->nodeid, name, size, &hash);
    if (!directory || !(text = PyBytes_FromStringAndSize(name, (Py_ssize_t)size)))
        return 0;
    now_ns = front_now(CLOCK_REALTIME);
    stream = stock[stock_first];
    stream->birth = (Birth){
        .own = 1, .open = 1, .whole = 1, .given = 1, .parent = header->nodeid, .lease = directory->lease,
        .flags = create->flags, .mode = mode, .uid = header->uid, .gid = header->gid, .made_mode = mode,
        .made_uid = header->uid, .made_gid = header->gid, .made_ns = now_ns, .atime_ns = now_ns, .mtime_ns = now_ns,
        .row_ctime_ns = now_ns, .name = text,
    };
    event = event_of(stream);
    event.time_ns = now_ns;
    event.name_size = (uint32_t)size;
    if (!front_list(stream) || !directory_add(directory, hash) || !write_down(MADE, &event, name)) {
        memset(&stream->birth, 0, sizeof stream->birth);
        Py_DECREF(text);
        return 0;
    }
    from_stock();
    directory->mtime_ns = later(now_ns, directory->mtime_ns + 1);
    directory->ctime_ns = later(now_ns, directory->ctime_ns + 1);
    directory->born_ns = front_now(CLOCK_BOOTTIME);
    stream->birth.news = MADE;
    stream->birth.handle = HANDLES | ++last_handle;
    entry.nodeid = stream->ino;
    entry.entry_valid = (uint64_t)(entry_ns / SECOND_NS);
    entry.entry_valid_nsec = (uint32_t)(entry_ns % SECOND_NS);
    entry.attr_valid = (uint64_t)(attributes_ns / SECOND_NS);
    entry.attr_valid_nsec = (uint32_t)(attributes_ns % SECOND_NS);
    fill_newborn(&entry.attr, stream);
    opened.fh = stream->birth.handle;
    taken_births++;
    front_answer(fd, header->unique, 0, &entry, sizeof entry, &opened, sizeof opened);
    Py_DECREF(stream); /* it is listed */
    return 1;
}

static void answer_attributes(int fd, const struct fuse_in_header *header, struct fuse_attr_out *reply, i64 valid_ns)
{
    reply->attr_valid = (uint64_t)(valid_ns / SECOND_NS);
    reply->attr_valid_nsec = (uint32_t)(valid_ns % SECOND_NS);
    front_answer(fd, header->unique, 0, reply, sizeof *reply, NULL, 0);
}

/* Python remembers from the birth on, so a little longer, what the kernel has. */
static int take_getattr_directory(int fd, const struct fuse_in_header *header, const Directory *directory)
{
    struct fuse_attr_out reply = {0};

    if (!directory->shown || !trusted() || attributes_ns <= SECOND_NS ||
        front_now(CLOCK_BOOTTIME) - directory->born_ns >= SECOND_NS)
        return 0;
    fill(&reply.attr, directory->ino, DIRECTORY_BYTES, directory->atime_ns, directory->mtime_ns, directory->ctime_ns);
    reply.attr.mode = directory->mode;
    reply.attr.nlink = directory->links;
    reply.attr.uid = directory->uid;
    reply.attr.gid = directory->gid;
    taken_looks++;
    answer_attributes(fd, header, &reply, attributes_ns - SECOND_NS);
    return 1;
}

static int take_getattr(int fd, const struct fuse_in_header *header)
{
    struct fuse_attr_out reply = {0};
    Stream *stream = front_find(header->nodeid);
    Directory *directory = stream ? NULL : directory_find(header->nodeid);

    if (directory)
        return take_getattr_directory(fd, header, directory);
    if (!stream || !stream->birth.own || !stream->birth.whole || !trusted() || !front_list(stream))
        return 0;
    stream->birth.news |= SHOWN;
    stream->birth.given = 1;
    taken_looks++;
    fill_newborn(&reply.attr, stream);
    answer_attributes(fd, header, &reply, attributes_ns);
    return 1;
}

static int time_of(i64 *time_ns, uint32_t valid, uint32_t now, uint64_t seconds, uint32_t nanoseconds, i64 now_ns)
{
    i64 whole = (i64)seconds;

    if (valid & now) { /* the kernel's is that of its last tick, and may be older than the last write */
        *time_ns = now_ns;
        return 1;
    }
    if (whole > INT64_MAX / SECOND_NS - 2 || whole < INT64_MIN / SECOND_NS + 2)
        return 0;
    *time_ns = whole * SECOND_NS + nanoseconds;
    return 1;
}

static int take_setattr(int fd, const struct fuse_in_header *header, const struct fuse_setattr_in *ask)
{
    struct fuse_attr_out reply = {0};
    Stream *stream = front_find(header->nodeid);
    uint32_t valid = ask->valid, mask = 0;
    Birth next;
    Event event;
    i64 now_ns;

    if (!stream || !stream->birth.own || valid & ~(uint32_t)ASKS_AND_MORE || !(valid & ASKS) || !trusted())
        return 0;
    next = stream->birth;
    now_ns = front_now(CLOCK_REALTIME);
    if (!next.whole || (valid & FATTR_MODE && ask->mode & 07000) || (valid & FATTR_UID && ask->uid == UINT32_MAX) ||
        (valid & FATTR_GID && ask->gid == UINT32_MAX))
        return 0;
    if (valid & FATTR_MODE) {
        next.mode = S_IFREG | (ask->mode & 0777);
        mask |= MASK_MODE;
    }
    if (valid & FATTR_UID) {
        next.uid = ask->uid;
        mask |= MASK_UID;
    }
    if (valid & FATTR_GID) {
        next.gid = ask->gid;
        mask |= MASK_GID;
    }
    if (valid & FATTR_ATIME) {
        if (!time_of(&next.atime_ns, valid, FATTR_ATIME_NOW, ask->atime, ask->atimensec, now_ns))
            return 0;
        mask |= MASK_ATIME;
    }
    if (valid & FATTR_MTIME) {
        if (!time_of(&next.mtime_ns, valid, FATTR_MTIME_NOW, ask->mtime, ask->mtimensec, now_ns))
            return 0;
        mask |= MASK_MTIME;
    }
    if (!front_list(stream))
        return 0;
    if (next.changed_ns) {
        next.changed_ns = now_ns;
        next.dated |= (mask & MASK_ATIME) != 0;
        if (!front_log_times(stream, next.dated ? next.atime_ns : UNSET, next.mtime_ns, now_ns))
            return 0;
    } else {
        next.row_ctime_ns = later(now_ns, next.row_ctime_ns + 1);
    }
    next.mask |= mask;
    next.news |= CHANGED;
    next.given = 1;
    event = event_of(stream);
    event.mask = next.changed_ns ? mask & MASK_IDENTITY : mask;
    event.mode = next.mode;
    event.uid = next.uid;
    event.gid = next.gid;
    event.time_ns = now_ns;
    event.atime_ns = next.atime_ns;
    event.mtime_ns = next.mtime_ns;
    if (event.mask && !write_down(CHANGED, &event, ""))
        return 0;
    stream->birth = next;
    taken_changes++;
    fill_newborn(&reply.attr, stream);
    answer_attributes(fd, header, &reply, attributes_ns);
    return 1;
}

static Stream *opened_as(u64 ino, u64 handle)
{
    Stream *stream = front_find(ino);

    return stream && stream->birth.own && stream->birth.open && stream->birth.handle == handle ? stream : NULL;
}

static int take_flush(int fd, const struct fuse_in_header *header, const struct fuse_flush_in *flush)
{
    Stream *stream = opened_as(header->nodeid, flush->fh);
    Event event;

    if (!stream || stream->birth.size > closing || stream->birth.size > close_most || !trusted() || !front_list(stream))
        return 0;
    event = event_of(stream);
    if (!write_down(CLOSED, &event, ""))
        return 0;
    closing -= stream->birth.size;
    stream->birth.news |= CLOSED;
    taken_closes++;
    front_answer(fd, header->unique, 0, NULL, 0, NULL, 0);
    return 1;
}

static int take_release(int fd, const struct fuse_in_header *header, const struct fuse_release_in *release)
{
    Stream *stream = opened_as(header->nodeid, release->fh);

    if (!stream || release->release_flags & FUSE_RELEASE_FLOCK_UNLOCK || !front_list(stream))
        return 0;
    stream->birth.news |= RELEASED;
    stream->birth.open = 0;
    front_answer(fd, header->unique, 0, NULL, 0, NULL, 0);
    return 1;
}

int births_take(int fd, const char *request, size_t size)
{
    const struct fuse_in_header *header = (const void *)request;
    const char *body = request + sizeof *header;

    size -= sizeof *header;
    if (!page || !until_ns || header->total_extlen)
        return 0;
    switch (header->opcode) {
    case FUSE_LOOKUP:
        return size > 1 && !body[size - 1] && take_lookup(fd, header, body, size - 1);
    case FUSE_CREATE:
        return size > sizeof(struct fuse_create_in) + 1 && !body[size - 1] &&
               take_create(fd, header, (const void *)body, body + sizeof(struct fuse_create_in),
                           size - sizeof(struct fuse_create_in) - 1);
    case FUSE_GETATTR:
        return size == sizeof(struct fuse_getattr_in) && take_getattr(fd, header);
    case FUSE_SETATTR:
        return size == sizeof(struct fuse_setattr_in) && take_setattr(fd, header, (const void *)body);
    case FUSE_FLUSH:
        return size == sizeof(struct fuse_flush_in) && take_flush(fd, header, (const void *)body);
    case FUSE_RELEASE:
        return size == sizeof(struct fuse_release_in) && take_release(fd, header, (const void *)body);
    }
    return 0;
}

/* -- what Python is told ------------------------------------------------------------------------------------------- */

PyObject *births_news(Stream *stream)
{
    Birth *birth = &stream->birth;
    int news = birth->news;
    uint32_t mask = birth->mask;
    PyObject *given;

    if (!news)
        return Py_NewRef(Py_None);
    given = birth->given ? Py_BuildValue("(IIIiLLLLL)", birth->mode, birth->uid, birth->gid, 1, birth->size, birth->size,
                                         birth->atime_ns, birth->mtime_ns, ctime_of(birth))
                         : Py_NewRef(Py_None);
    birth->row_ctime_ns = row_ctime_of(birth);
    birth->apart |= news & CHANGED && !birth->changed_ns;
    birth->news = 0;
    birth->mask = 0;
    return given ? Py_BuildValue("(iIKO(KI)KI(III)(III)LLLLN)", news, mask, birth->parent,
                                 news & MADE ? birth->name : Py_None, birth->lease.seq, birth->lease.index,
                                 birth->handle, birth->flags, birth->made_mode, birth->made_uid, birth->made_gid,
                                 birth->mode, birth->uid, birth->gid, birth->made_ns, birth->atime_ns, birth->mtime_ns,
                                 birth->changed_ns ? birth->changed_ns : birth->row_ctime_ns, given)
                 : NULL;
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

static PyObject *estrange(PyObject *module, PyObject *args)
{
    Stream *stream;
    u64 ino;

    (void)module;
    if (!PyArg_ParseTuple(args, "K:estrange", &ino))
        return NULL;
    directory_forget(ino);
    if ((stream = front_find(ino)))
        stream->birth.own = 0;
    Py_RETURN_NONE;
}

static void disown(Stream *stream, const void *argument)
{
    const Lease *lease = argument;

    if (!lease || (stream->birth.lease.seq == lease->seq && stream->birth.lease.index == lease->index))
        stream->birth.own = 0;
}

static void forget_all(const Lease *lease)
{
    directories_forget(lease);
    front_each(disown, lease);
}

static PyObject *lease_over(PyObject *module, PyObject *args)
{
    Lease lease;

    (void)module;
    if (!PyArg_ParseTuple(args, "KI:lease_over", &lease.seq, &lease.index))
        return NULL;
    forget_all(&lease);
    Py_RETURN_NONE;
}

static PyObject *distrust(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    until_ns = 0;
    forget_all(NULL);
    Py_RETURN_NONE;
}

static PyObject *trust(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, "LLL:trust", &until_ns, &closing, &close_most))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *add_to_stock(PyObject *module, PyObject *object)
{
    (void)module;
    if (!PyObject_TypeCheck(object, stream_type) || stock_count == STOCK) {
        PyErr_SetString(PyExc_ValueError, "stock: a stream, of so many at most");
        return NULL;
    }
    stock[(stock_first + stock_count++) % STOCK] = (Stream *)Py_NewRef(object);
    Py_RETURN_NONE;
}

static PyObject *take_from_stock(PyObject *module, PyObject *unused)
{
    Stream *stream;
    u64 ino;

    (void)module;
    (void)unused;
    if (!stock_count)
        return PyLong_FromLong(0);
    stream = from_stock();
    ino = stream->ino;
    Py_DECREF(stream);
    return PyLong_FromUnsignedLongLong(ino);
}

static PyObject *count_stock(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(stock_count);
}

static PyObject *set_replies(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, "LLI:replies", &entry_ns, &attributes_ns, &block_size))
        return NULL;
    Py_RETURN_NONE;
}

static void unmap(void)
{
    if (page)
        munmap(page, page_size);
    page = NULL;
}

static PyObject *map_page(PyObject *module, PyObject *args)
{
    Py_ssize_t first, size;
    void *mapped;
    int fd;

    (void)module;
    if (!PyArg_ParseTuple(args, "inn:write_down", &fd, &first, &size))
        return NULL;
    unmap();
    mapped = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    page = mapped;
    page_size = (size_t)size;
    page_first = page_used = (size_t)first;
    kept = 0;
    Py_RETURN_NONE;
}

void births_begin(void)
{
    taken_births = taken_lookups = taken_changes = taken_closes = taken_looks = 0;
}

void births_end(void)
{
    until_ns = 0;
    forget_all(NULL);
    while (stock_count)
        Py_DECREF(from_stock());
    unmap();
}

static PyMethodDef functions[] = {
    {"estrange", estrange, METH_VARARGS, "Leave everything about this inode to Python."},
    {"lease_over", lease_over, METH_VARARGS, "Leave to Python what this lease covers: seq, index."},
    {"distrust", distrust, METH_NOARGS, "Leave everything to Python."},
    {"trust", trust, METH_VARARGS, "Leases hold until then (CLOCK_BOOTTIME, ns); so many bytes, in one file, may be closed."},
    {"stock", add_to_stock, METH_O, "A stream for a file to be made, of a higher inode than those before."},
    {"unstock", take_from_stock, METH_NOARGS, "Take the next one back: its inode, or 0."},
    {"stocked", count_stock, METH_NOARGS, "How many there are."},
    {"replies", set_replies, METH_VARARGS, "How long the kernel keeps names and attributes (ns); its block size."},
    {"write_down", map_page, METH_VARARGS, "Where answers are written down: fd, the first byte, the file's size."},
    {NULL, NULL, 0, NULL},
};

int births_add(PyObject *module)
{
    return directories_add(module) < 0 ? -1 : PyModule_AddFunctions(module, functions);
}

/* FUSE passthrough (Linux 6.9 and newer, CAP_SYS_ADMIN): the kernel reads and writes a local file itself.
 *
 * Three things that neither libfuse before 3.17 nor pyfuse3 knows: the feature in the answer to INIT, a file's
 * registration with the kernel, and its number in the answer to OPEN or CREATE. Python decides which handle is served
 * so (`carry`), before it answers; the answer is changed on its way to the kernel.
 *
 * Everything is guarded by the GIL, and pyfuse3 answers on the thread that called `carry`, with nothing in between: so
 * one place for what is carried is enough. A handle's number never comes back within a session.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include "passthrough.h"

#define FUSE_USE_VERSION 35
#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

/* linux/fuse.h of older distributions does not have these. */
#define EXTENDED_FLAGS (1u << 30)       /* FUSE_INIT_EXT: flags2 counts */
#define PASSTHROUGH (1u << (37 - 32))   /* FUSE_PASSTHROUGH, in flags2 */
#define OPENED_DIRECT (1u << 0)         /* FOPEN_DIRECT_IO */
#define OPENED_PASSTHROUGH (1u << 7)    /* FOPEN_PASSTHROUGH */
#define DEPTH 1                         /* file systems below ours: leaves room for an overlay above it */

struct init_request {
    struct fuse_in_header header;
    uint32_t major, minor, max_readahead, flags, flags2;
};

struct init_answer {
    uint32_t major, minor, max_readahead, flags, background, max_write, time_granularity, pages, flags2, stack_depth;
};

struct open_answer {
    uint64_t handle;
    uint32_t flags;
    int32_t backing; /* padding, before Linux 6.9 */
};

struct backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};

#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

static int device = -1;
static int wanted, offered, agreed;

static struct {
    uint64_t handle; /* 0: nothing is carried */
    int32_t backing;
    int direct;
} carried;
static int answering; /* the answer that passes now opens `carried.handle` */

void passthrough_begin(int wants)
{
    device = -1;
    wanted = wants;
    offered = agreed = answering = 0;
    carried.handle = 0;
}

void passthrough_device(int fd)
{
    device = fd;
}

void passthrough_saw(const void *request, size_t size)
{
    struct init_request init;

    if (size < sizeof init)
        return;
    memcpy(&init, request, sizeof init);
    offered = init.header.opcode == FUSE_INIT && init.flags & EXTENDED_FLAGS && init.flags2 & PASSTHROUGH;
}

void passthrough_answer_init(void *init, size_t size)
{
    struct init_answer answer;

    if (!wanted || !offered || size < sizeof answer)
        return;
    memcpy(&answer, init, sizeof answer);
    answer.flags |= EXTENDED_FLAGS;
    answer.flags2 |= PASSTHROUGH;
    answer.stack_depth = DEPTH;
    memcpy(init, &answer, sizeof answer);
    agreed = 1;
}

/* The answer to OPEN is a struct open_answer, that to CREATE ends with one. */
void passthrough_answer(const struct iovec *iov, int count)
{
    const struct fuse_out_header *header = iov[0].iov_base;
    struct open_answer answer;
    char *place;

    if (!answering || count != 2 || header->error || iov[1].iov_len < sizeof answer)
        return;
    place = (char *)iov[1].iov_base + iov[1].iov_len - sizeof answer;
    memcpy(&answer, place, sizeof answer);
    if (answer.handle != carried.handle)
        return;
    answer.flags = OPENED_PASSTHROUGH | (carried.direct ? OPENED_DIRECT : 0); /* the kernel refuses any other with it */
    answer.backing = carried.backing;
    memcpy(place, &answer, sizeof answer);
}

/* -- what pyfuse3 calls -------------------------------------------------------------------------------------------- */

static void begin_answer(const struct fuse_file_info *fi)
{
    answering = carried.handle && fi->fh == carried.handle;
}

static int end_answer(int result)
{
    if (answering)
        carried.handle = 0;
    answering = 0;
    return result;
}

typedef int reply_open_function(fuse_req_t, const struct fuse_file_info *);
typedef int reply_create_function(fuse_req_t, const struct fuse_entry_param *, const struct fuse_file_info *);

VISIBLE int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    static reply_open_function *real; /* looking it up takes longer than most of what else is done here */

    if (!real)
        real = (reply_open_function *)dlsym(RTLD_NEXT, "fuse_reply_open");
    if (!real)
        return -ENOSYS;
    begin_answer(fi);
    return end_answer(real(req, fi));
}

VISIBLE int fuse_reply_create(fuse_req_t req, const struct fuse_entry_param *entry, const struct fuse_file_info *fi)
{
    static reply_create_function *real; /* looking it up takes longer than most of what else is done here */

    if (!real)
        real = (reply_create_function *)dlsym(RTLD_NEXT, "fuse_reply_create");
    if (!real)
        return -ENOSYS;
    begin_answer(fi);
    return end_answer(real(req, entry, fi));
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

PyObject *passthrough_agreed(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(agreed && device >= 0);
}

PyObject *passthrough_backing_open(PyObject *module, PyObject *args)
{
    struct backing_map map = {0};
    int id;

    (void)module;
    if (!PyArg_ParseTuple(args, "i:backing_open", &map.fd))
        return NULL;
    id = ioctl(device, BACKING_OPEN, &map);
    if (id <= 0) {
        if (!id)
            errno = EINVAL;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(id);
}

PyObject *passthrough_backing_close(PyObject *module, PyObject *args)
{
    uint32_t id;

    (void)module;
    if (!PyArg_ParseTuple(args, "I:backing_close", &id))
        return NULL;
    if (ioctl(device, BACKING_CLOSE, &id) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyObject *passthrough_carry(PyObject *module, PyObject *args)
{
    unsigned long long handle;
    int backing, direct;

    (void)module;
    if (!PyArg_ParseTuple(args, "Kip:carry", &handle, &backing, &direct))
        return NULL;
    carried.handle = handle;
    carried.backing = backing;
    carried.direct = direct;
    Py_RETURN_NONE;
}

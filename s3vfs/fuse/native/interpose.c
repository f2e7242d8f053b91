/* Requests of the kernel that pyfuse3 does not forward, under an unmodified pyfuse3.
 *
 * Loaded with RTLD_GLOBAL before pyfuse3, this library's fuse_session_new (fuse_session_new_versioned from libfuse 3.17
 * on) is the one that pyfuse3 calls. It adds handlers to a copy of pyfuse3's operations and calls libfuse's own. Each
 * handler makes a Request and passes it, with plain integers, to the one Python callable that was installed; Python
 * answers whenever it likes. What pyfuse3 handles well stays its own, and without an installed callable everything does;
 * but the kernel is always told that umasks are the file system's to apply.
 *
 * Guarantees:
 *  - A request is answered exactly once. Dropped without an answer (by an exception, or for lack of memory) it answers
 *    EIO; those still open when the session is destroyed answer ENOTCONN and can do nothing afterwards.
 *  - pyfuse3 calls libfuse with the GIL held, on its trio thread. Handlers take it in any case.
 *  - Everything below is guarded by the GIL: the callables, the list of open requests and their fields.
 *
 * One session at a time has our handlers, as pyfuse3 has one at a time.
 *
 * It knows no policy: who waits for what, and which errno an error is, is Python's to say.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include "front.h"
#include "passthrough.h"

#include <structmember.h>

#define FUSE_USE_VERSION 35
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <sys/uio.h>
#include <unistd.h>

#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 8) || FUSE_VERSION >= FUSE_MAKE_VERSION(4, 0)
#error "this needs libfuse 3.8 or newer, and knows none but 3"
#endif

#ifndef FUSE_HANDLE_KILLPRIV_V2 /* Linux 5.11; an older kernel ignores the bit */
#define FUSE_HANDLE_KILLPRIV_V2 (1 << 28)
#endif

static PyObject *installed;    /* the callable for the next session, or NULL */
static PyObject *noted;        /* what its front calls, or NULL: it has none */
static int passing;            /* whether it asks for passthrough */
static PyObject *serving;      /* the callable of the session that has our handlers, or NULL */
static unsigned long sessions; /* how many sessions have had our handlers */

/* Of the session that has our handlers: */
static struct fuse_session *ours;                           /* only compared */
static int init_answered;                                   /* whether INIT has had its reply */
static void (*given_init)(void *, struct fuse_conn_info *); /* pyfuse3's own handler */
static void (*given_write_buf)(fuse_req_t, fuse_ino_t, struct fuse_bufvec *, off_t, struct fuse_file_info *);
static void (*given_setattr)(fuse_req_t, fuse_ino_t, struct stat *, int, struct fuse_file_info *);

/* -- requests ------------------------------------------------------------------------------------------------------ */

typedef struct Request {
    PyObject_HEAD
    fuse_req_t req; /* NULL once it has been answered */
    PyObject *interrupted;
    int interrupting; /* libfuse calls us with a lock on `req`: it may not be answered (and freed) meanwhile */
    unsigned int uid, gid;
    int pid;
    struct Request *before, *after; /* the list of open requests */
} Request;

static Request *open_requests;
static PyTypeObject *request_type;

static void enlist(Request *self)
{
    self->before = NULL;
    self->after = open_requests;
    if (open_requests)
        open_requests->before = self;
    open_requests = self;
}

/* Takes the right to answer: whoever gets `req` answers it, and nobody else will. */
static fuse_req_t take(Request *self)
{
    fuse_req_t req = self->req;

    if (!req)
        return NULL;
    self->req = NULL;
    if (self->before)
        self->before->after = self->after;
    else
        open_requests = self->after;
    if (self->after)
        self->after->before = self->before;
    self->before = self->after = NULL;
    return req;
}

static void drop(Request *self, int error)
{
    fuse_req_t req = take(self);

    if (req)
        fuse_reply_err(req, error);
}

static int request_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Request *)object)->interrupted);
    return 0;
}

static int request_clear(PyObject *object)
{
    Py_CLEAR(((Request *)object)->interrupted);
    return 0;
}

static void request_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    drop((Request *)object, EIO);
    request_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The request to be answered now, or NULL with a Python exception. */
static fuse_req_t take_to_answer(PyObject *object)
{
    Request *self = (Request *)object;
    fuse_req_t req;

    if (self->interrupting) {
        PyErr_SetString(PyExc_RuntimeError, "a request cannot be answered while it is told of its interruption");
        return NULL;
    }
    req = take(self);
    if (!req)
        PyErr_SetString(PyExc_RuntimeError, "the request has been answered before");
    return req;
}

static PyObject *request_reply_error(PyObject *self, PyObject *args)
{
    int error;
    fuse_req_t req;

    if (!PyArg_ParseTuple(args, "i:reply_error", &error))
        return NULL;
    if (!(req = take_to_answer(self)))
        return NULL;
    return PyLong_FromLong(-fuse_reply_err(req, error));
}

static PyObject *request_reply_count(PyObject *self, PyObject *args)
{
    unsigned int count;
    fuse_req_t req;

    if (!PyArg_ParseTuple(args, "I:reply_count", &count))
        return NULL;
    if (!(req = take_to_answer(self)))
        return NULL;
    return PyLong_FromLong(-fuse_reply_write(req, count));
}

static PyObject *request_reply_offset(PyObject *self, PyObject *args)
{
    long long offset;
    fuse_req_t req;

    if (!PyArg_ParseTuple(args, "L:reply_offset", &offset))
        return NULL;
    if (!(req = take_to_answer(self)))
        return NULL;
    return PyLong_FromLong(-fuse_reply_lseek(req, offset));
}

static PyObject *request_reply_lock(PyObject *self, PyObject *args)
{
    struct flock lock = {.l_whence = SEEK_SET};
    long long start, end;
    int kind, pid;
    fuse_req_t req;

    if (!PyArg_ParseTuple(args, "iLLi:reply_lock", &kind, &start, &end, &pid))
        return NULL;
    if ((kind != F_RDLCK && kind != F_WRLCK && kind != F_UNLCK) || start < 0 || end < start) {
        PyErr_SetString(PyExc_ValueError, "no such lock");
        return NULL;
    }
    lock.l_type = (short)kind;
    lock.l_start = start;
    lock.l_len = end == LLONG_MAX ? 0 : end - start + 1; /* 0: to the end; libfuse turns it back */
    lock.l_pid = pid;
    if (!(req = take_to_answer(self)))
        return NULL;
    return PyLong_FromLong(-fuse_reply_lock(req, &lock));
}

/* libfuse calls this when the kernel sends INTERRUPT, from fuse_session_process_buf or fuse_req_interrupt_func. Its
 * `data` is borrowed: libfuse forgets it with the answer, and a Request that goes away answers. */
static void on_interrupt(fuse_req_t req, void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Request *self = data;
    PyObject *callback, *result;

    if (self->req == req && (callback = self->interrupted) != NULL) {
        Py_INCREF(self);
        Py_INCREF(callback);
        self->interrupting++;
        result = PyObject_CallNoArgs(callback);
        if (!result)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(result);
        self->interrupting--;
        Py_DECREF(callback);
        Py_DECREF(self);
    }
    PyGILState_Release(state);
}

static PyObject *request_when_interrupted(PyObject *object, PyObject *callback)
{
    Request *self = (Request *)object;

    if (!self->req || self->interrupted) {
        PyErr_SetString(PyExc_RuntimeError, "when_interrupted: once, and before the answer");
        return NULL;
    }
    self->interrupted = Py_NewRef(callback);
    fuse_req_interrupt_func(self->req, on_interrupt, self);
    Py_RETURN_NONE;
}

static PyObject *request_answered(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Request *)self)->req == NULL);
}

static PyMethodDef request_methods[] = {
    {"reply_error", request_reply_error, METH_VARARGS, "Answer with an errno, 0 for success."},
    {"reply_count", request_reply_count, METH_VARARGS, "Answer with a number of bytes."},
    {"reply_offset", request_reply_offset, METH_VARARGS, "Answer lseek."},
    {"reply_lock", request_reply_lock, METH_VARARGS, "Answer getlk: kind, start, end (inclusive), pid."},
    {"when_interrupted", request_when_interrupted, METH_O, "Have the callable called on INTERRUPT, maybe at once."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef request_properties[] = {
    {"answered", request_answered, NULL, "Whether it has had its answer.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef request_members[] = {
    {"uid", T_UINT, offsetof(Request, uid), READONLY, "The caller's user."},
    {"gid", T_UINT, offsetof(Request, gid), READONLY, "The caller's group."},
    {"pid", T_INT, offsetof(Request, pid), READONLY, "The caller's thread, 0 where it cannot be seen from here."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "One request of the kernel: answered once, EIO when it is dropped."},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_methods, request_methods},
    {Py_tp_getset, request_properties},
    {Py_tp_members, request_members},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "s3vfs.fuse.native._interpose.Request",
    .basicsize = sizeof(Request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

/* -- from libfuse to Python ---------------------------------------------------------------------------------------- */

static Request *new_request(fuse_req_t req)
{
    Request *self = PyObject_GC_New(Request, request_type);
    const struct fuse_ctx *context = fuse_req_ctx(req);

    if (!self)
        return NULL;
    self->req = req;
    self->interrupted = NULL;
    self->interrupting = 0;
    self->uid = context->uid;
    self->gid = context->gid;
    self->pid = context->pid;
    enlist(self);
    PyObject_GC_Track(self);
    return self;
}

/* Calls installed(call, Request, *arguments), where `format` builds a tuple of the arguments. */
static void pass_on(fuse_req_t req, const char *call, const char *format, ...)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Request *request = new_request(req);
    PyObject *arguments, *first = NULL, *all = NULL, *result = NULL;
    va_list values;

    if (!request) {
        fuse_reply_err(req, ENOMEM);
        PyErr_Clear();
        PyGILState_Release(state);
        return;
    }
    va_start(values, format);
    arguments = Py_VaBuildValue(format, values);
    va_end(values);
    if (arguments)
        first = Py_BuildValue("(sO)", call, request);
    if (first)
        all = PySequence_Concat(first, arguments);
    if (all && serving)
        result = PyObject_CallObject(serving, all);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(serving);
    Py_XDECREF(result);
    Py_XDECREF(all);
    Py_XDECREF(first);
    Py_XDECREF(arguments);
    Py_DECREF(request); /* if nobody has kept it, it answers EIO here */
    PyGILState_Release(state);
}

typedef unsigned long long u64;
typedef long long i64;

static void on_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
    (void)ino;
    pass_on(req, "flock", "(KKi)", (u64)fi->fh, (u64)fi->lock_owner, operation);
}

/* The last byte of a struct flock that libfuse made of (start, end): 0 stands for to the end. */
static i64 last_byte(const struct flock *lock)
{
    return lock->l_len ? lock->l_start + (lock->l_len - 1) : LLONG_MAX;
}

static void on_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    (void)ino;
    pass_on(req, "getlk", "(KKiLL)", (u64)fi->fh, (u64)fi->lock_owner, (int)lock->l_type, (i64)lock->l_start,
            last_byte(lock));
}

static void on_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
    (void)ino;
    pass_on(req, "setlk", "(KKiLLii)", (u64)fi->fh, (u64)fi->lock_owner, (int)lock->l_type, (i64)lock->l_start,
            last_byte(lock), (int)lock->l_pid, sleep);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    (void)ino;
    pass_on(req, "fallocate", "(KiLL)", (u64)fi->fh, mode, (i64)offset, (i64)length);
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    (void)ino;
    pass_on(req, "lseek", "(KLi)", (u64)fi->fh, (i64)offset, whence);
}

static void on_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset, struct fuse_file_info *from_fi,
                               fuse_ino_t to, off_t to_offset, struct fuse_file_info *to_fi, size_t length, int flags)
{
    (void)from;
    (void)to;
    pass_on(req, "copy_file_range", "(KLKLKi)", (u64)from_fi->fh, (i64)from_offset, (u64)to_fi->fh, (i64)to_offset,
            (u64)length, flags);
}

/* pyfuse3 does not tell what the kernel writes back of a mapping, by whatever handle, from what a program writes: the
 * former has this bit in its handle's number. */
#define MAPPED_STORE (1ULL << 63)

/* O_APPEND comes and goes after the open as well (F_SETFL): each request tells. */
static void on_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *source, off_t offset,
                         struct fuse_file_info *fi)
{
    struct fuse_bufvec target = FUSE_BUFVEC_INIT(fuse_buf_size(source));
    ssize_t length;

    if (!(fi->flags & O_APPEND)) {
        if (fi->writepage)
            fi->fh |= MAPPED_STORE;
        given_write_buf(req, ino, source, offset, fi);
        return;
    }
    target.buf[0].mem = malloc(target.buf[0].size);
    length = target.buf[0].mem ? fuse_buf_copy(&target, source, 0) : -ENOMEM;
    if (length < 0)
        fuse_reply_err(req, (int)-length);
    else
        pass_on(req, "append", "(Ky#)", (u64)fi->fh, (const char *)target.buf[0].mem, (Py_ssize_t)length);
    free(target.buf[0].mem);
}

/* With "now" the kernel sends the time of its last tick, which is up to 10 ms old, and pyfuse3 takes that where it has
 * the choice. Other times are the daemon's, to the nanosecond: a file that is touched must not become older than what was
 * written before. */
static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        to_set &= ~FUSE_SET_ATTR_ATIME;
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        to_set &= ~FUSE_SET_ATTR_MTIME;
    given_setattr(req, ino, attr, to_set, fi);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    pass_on(req, "flush", "(KK)", (u64)fi->fh, (u64)fi->lock_owner);
}

static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    pass_on(req, "release", "(KKi)", (u64)fi->fh, (u64)fi->lock_owner, (int)fi->flock_release);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    pass_on(req, "setxattr", "(Kyy#i)", (u64)ino, name, value, (Py_ssize_t)size, flags);
}

/* The session goes away after this. pyfuse3 has no such handler of its own. */
static void on_destroy(void *userdata)
{
    PyGILState_STATE state = PyGILState_Ensure();

    (void)userdata;
    while (open_requests)
        drop(open_requests, ENOTCONN);
    Py_CLEAR(serving);
    front_end();
    passthrough_device(-1);
    PyGILState_Release(state);
}

/* Default ACLs take the umask's place, and only the file system knows where there is one: so the kernel must leave the
 * umask to it. pyfuse3 has no setting for that. */
static void on_init(void *userdata, struct fuse_conn_info *conn)
{
    if (given_init)
        given_init(userdata, conn);
    if (conn->capable & FUSE_CAP_DONT_MASK)
        conn->want |= FUSE_CAP_DONT_MASK;
}

static void add_handlers(struct fuse_lowlevel_ops *ops, PyObject *handler)
{
    Py_XSETREF(serving, Py_NewRef(handler));
    sessions++;
    given_init = ops->init;
    ops->init = on_init;
    ops->flock = on_flock;
    ops->getlk = on_getlk;
    ops->setlk = on_setlk;
    ops->fallocate = on_fallocate;
    ops->lseek = on_lseek;
    ops->copy_file_range = on_copy_file_range;
    given_write_buf = ops->write_buf;
    if (given_write_buf)
        ops->write_buf = on_write_buf;
    given_setattr = ops->setattr;
    if (given_setattr)
        ops->setattr = on_setattr;
    ops->flush = on_flush;
    ops->release = on_release;
    ops->setxattr = on_setxattr;
    ops->destroy = on_destroy;
}

/* -- settings of the connection ------------------------------------------------------------------------------------ */

/* FUSE_HANDLE_KILLPRIV_V2: the kernel may remember that a file has no capabilities. Without it, it asks getxattr before
 * every write. (What writes take away, the file system takes away by itself in either case.) libfuse knows that setting
 * from 3.17 on only, so the bit is put into its reply to INIT, the first one of all, on the way to the kernel. */
static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    if (!init_answered) {
        const struct fuse_out_header *header = iov[0].iov_base;

        init_answered = 1;
        if (!header->error && count == 2 && iov[1].iov_len >= sizeof(struct fuse_init_out)) {
            ((struct fuse_init_out *)iov[1].iov_base)->flags |= FUSE_HANDLE_KILLPRIV_V2;
            passthrough_answer_init(iov[1].iov_base, iov[1].iov_len);
        }
    } else {
        passthrough_answer(iov, count);
    }
    return writev(fd, iov, count);
}

static ssize_t read_request(int fd, void *buffer, size_t size, void *userdata)
{
    ssize_t length = front_read(fd, buffer, size);

    (void)userdata;
    if (!init_answered && length > 0)
        passthrough_saw(buffer, (size_t)length);
    return length;
}

/* -- what pyfuse3 calls -------------------------------------------------------------------------------------------- */

#undef fuse_session_new
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
#define SESSION_NEW fuse_session_new_versioned
#define VERSION_PARAMETER struct libfuse_version *version,
#define VERSION_ARGUMENT version,
#else
#define SESSION_NEW fuse_session_new
#define VERSION_PARAMETER
#define VERSION_ARGUMENT
#endif
#define TEXT_OF(name) #name
#define NAME_OF(name) TEXT_OF(name)

typedef struct fuse_session *session_new_function(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                                  VERSION_PARAMETER void *);
typedef int session_mount_function(struct fuse_session *, const char *);

VISIBLE struct fuse_session *SESSION_NEW(struct fuse_args *args, const struct fuse_lowlevel_ops *given, size_t size,
                                         VERSION_PARAMETER void *userdata)
{
    session_new_function *real = (session_new_function *)dlsym(RTLD_NEXT, NAME_OF(SESSION_NEW));
    struct fuse_lowlevel_ops ops = {0};
    PyGILState_STATE state;
    int wanted;

    if (!real)
        return NULL; /* pyfuse3 reports that there is no session */
    memcpy(&ops, given, size < sizeof ops ? size : sizeof ops);
    state = PyGILState_Ensure();
    wanted = installed != NULL;
    if (wanted) {
        add_handlers(&ops, installed);
        front_begin(noted);
        passthrough_begin(passing);
    }
    PyGILState_Release(state);
    if (!wanted)
        return real(args, given, size, VERSION_ARGUMENT userdata);
    init_answered = 0;
    return ours = real(args, &ops, sizeof ops, VERSION_ARGUMENT userdata);
}

VISIBLE int fuse_session_mount(struct fuse_session *session, const char *mountpoint)
{
    static const struct fuse_custom_io io = {.writev = write_reply, .read = read_request};
    session_mount_function *real = (session_mount_function *)dlsym(RTLD_NEXT, "fuse_session_mount");
    int result = real ? real(session, mountpoint) : -1;

    if (result == 0 && session == ours) {
        int fd = fuse_session_fd(session);

        passthrough_device(fd);
        result = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        if (result == 0)
            result = fuse_session_custom_io(session, &io, fd);
    }
    return result;
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

static PyObject *install(PyObject *module, PyObject *args)
{
    PyObject *before = installed, *noted_before = noted, *handler, *note = Py_None;
    int pass = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "O|pO:install", &handler, &pass, &note))
        return NULL;
    if (handler != Py_None && !PyCallable_Check(handler)) {
        PyErr_SetString(PyExc_TypeError, "install: a callable or None");
        return NULL;
    }
    installed = handler == Py_None ? NULL : Py_NewRef(handler);
    noted = note == Py_None ? NULL : Py_NewRef(note);
    passing = pass;
    Py_XDECREF(before);
    Py_XDECREF(noted_before);
    Py_RETURN_NONE;
}

static PyObject *count_sessions(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(sessions);
}

static PyObject *versions(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("(ii)", FUSE_VERSION, fuse_version());
}

static PyMethodDef functions[] = {
    {"install", install, METH_VARARGS, "Have the next session call handler(call, Request, *arguments); None: not."},
    {"passthrough", passthrough_agreed, METH_NOARGS, "Whether the kernel and this session have agreed on it."},
    {"backing_open", passthrough_backing_open, METH_VARARGS, "Register a file: the id that replies may carry."},
    {"backing_close", passthrough_backing_close, METH_VARARGS, "The id may be carried no longer."},
    {"carry", passthrough_carry, METH_VARARGS, "The reply that opens this handle carries an id: handle, id, direct."},
    {"more", front_more, METH_NOARGS, "Whether to read again, without a turn of the loop."},
    {"turned", front_turned, METH_NOARGS, "The loop has had a turn."},
    {"allow", front_allow, METH_VARARGS, "The front may take so many bytes more; how many that are now."},
    {"front_counts", front_counts, METH_NOARGS, "What the front has answered in this session."},
    {"sessions", count_sessions, METH_NOARGS, "How many sessions have been made with handlers of ours."},
    {"versions", versions, METH_NOARGS, "libfuse's version: of the headers, and of the library that is loaded."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "s3vfs.fuse.native._interpose",
    .m_doc = "Requests of the kernel that pyfuse3 does not forward.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__interpose(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (!module)
        return NULL;
    request_type = (PyTypeObject *)PyType_FromSpec(&request_spec);
    if (!request_type || PyModule_AddObjectRef(module, "Request", (PyObject *)request_type) < 0 ||
        front_add_types(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}

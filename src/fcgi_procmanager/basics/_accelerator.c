/* What each request pays for, in C: the same functions as in Python, which are the reference (accelerator.py names them).
 *
 * Nothing here waits, calls back into Python code of an application, or changes anything but what it returns. Nothing is
 * remembered from one request to the next. What is not usual is left to Python: these functions return None for it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <string.h>

#if PY_VERSION_HEX < 0x030A0000
static PyObject *
Py_NewRef(PyObject *object)
{
    Py_INCREF(object);
    return object;
}
#endif
#ifndef Py_BEGIN_CRITICAL_SECTION /* the GIL does it */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

enum { BEGIN_REQUEST = 1, END_REQUEST = 3, PARAMS = 4, STDIN = 5, STDOUT = 6 };
enum { FILTER = 3, KEEP_CONN = 1 };
enum { HEADER = 8, MAX_CONTENT = 65535 };
enum { SLOTS = 512 }; /* of the table of names; a power of two, and much more than there are names */

/* The names that web servers send. Whatever else a peer sends is a string of its own, which goes with its request. */
static const char *const NAMES[] = {
    "AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "CONTEXT_DOCUMENT_ROOT", "CONTEXT_PREFIX", "DOCUMENT_ROOT",
    "DOCUMENT_URI", "FCGI_ROLE", "GATEWAY_INTERFACE", "HTTPS", "HTTP_ACCEPT", "HTTP_ACCEPT_CHARSET",
    "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_LANGUAGE", "HTTP_AUTHORIZATION", "HTTP_CACHE_CONTROL", "HTTP_CONNECTION",
    "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_COOKIE", "HTTP_DNT", "HTTP_EXPECT", "HTTP_FORWARDED",
    "HTTP_FROM", "HTTP_HOST", "HTTP_IF_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_IF_RANGE",
    "HTTP_IF_UNMODIFIED_SINCE", "HTTP_KEEP_ALIVE", "HTTP_ORIGIN", "HTTP_PRAGMA", "HTTP_PRIORITY", "HTTP_PROXY",
    "HTTP_RANGE", "HTTP_REFERER", "HTTP_SEC_CH_UA", "HTTP_SEC_CH_UA_MOBILE", "HTTP_SEC_CH_UA_PLATFORM",
    "HTTP_SEC_FETCH_DEST", "HTTP_SEC_FETCH_MODE", "HTTP_SEC_FETCH_SITE", "HTTP_SEC_FETCH_USER", "HTTP_TE",
    "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_UPGRADE_INSECURE_REQUESTS", "HTTP_USER_AGENT", "HTTP_VIA",
    "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP", "HTTP_X_REQUESTED_WITH", "HTTP_X_REQUEST_ID", "PATH", "PATH_INFO", "PATH_TRANSLATED",
    "QUERY_STRING", "REDIRECT_STATUS", "REDIRECT_URL", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_PORT",
    "REMOTE_USER", "REQUEST_METHOD", "REQUEST_SCHEME", "REQUEST_URI", "SCRIPT_FILENAME", "SCRIPT_NAME",
    "SERVER_ADDR", "SERVER_ADMIN", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SIGNATURE",
    "SERVER_SOFTWARE", "SSL_TLS_SNI",
};

/* Of one module object: made when it is, and only read afterwards, by any number of threads. */
typedef struct {
    PyTypeObject *opening;
    PyObject *names[SLOTS];
} State;

static State *
state_of(PyObject *module)
{
    return (State *)PyModule_GetState(module);
}

/* -- name-value pairs --------------------------------------------------------------------------------------------- */

static unsigned int
slot_of(const unsigned char *name, Py_ssize_t length)
{
    unsigned int hash = (unsigned int)length;
    for (Py_ssize_t i = 0; i < length; i++)
        hash = hash * 31 + name[i];
    return (hash ^ hash >> 9) & (SLOTS - 1);
}

/* A new reference to the string of a name. */
static PyObject *
name_of(const State *state, const unsigned char *name, Py_ssize_t length)
{
    if (length <= 32) {
        for (unsigned int slot = slot_of(name, length); state->names[slot] != NULL; slot = (slot + 1) & (SLOTS - 1)) {
            PyObject *known = state->names[slot];
            if (PyUnicode_GET_LENGTH(known) == length && memcmp(PyUnicode_1BYTE_DATA(known), name, length) == 0) {
                Py_INCREF(known);
                return known;
            }
        }
    }
    return PyUnicode_DecodeLatin1((const char *)name, length, NULL);
}

/* The next length of a pair, in one byte or four. Returns -1 where the bytes end before it. */
static Py_ssize_t
take_length(const unsigned char **position, const unsigned char *end)
{
    const unsigned char *p = *position;
    if (p >= end)
        return -1;
    if (*p < 128) {
        *position = p + 1;
        return *p;
    }
    if (end - p < 4)
        return -1;
    *position = p + 4;
    return (Py_ssize_t)(p[0] & 127) << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

/* All pairs as a dict. NULL without an exception: a pair is longer than what it is in. */
static PyObject *
pairs_of(const State *state, const unsigned char *position, const unsigned char *end)
{
    PyObject *pairs = PyDict_New();
    if (pairs == NULL)
        return NULL;
    while (position < end) {
        Py_ssize_t name_length = take_length(&position, end);
        Py_ssize_t value_length = name_length < 0 ? -1 : take_length(&position, end);
        if (value_length < 0 || name_length > end - position || value_length > end - position - name_length)
            goto failed;
        PyObject *name = name_of(state, position, name_length);
        PyObject *value = PyUnicode_DecodeLatin1((const char *)position + name_length, value_length, NULL);
        int set = name == NULL || value == NULL ? -1 : PyDict_SetItem(pairs, name, value);
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (set < 0)
            goto failed;
        position += name_length + value_length;
    }
    return pairs;
failed:
    Py_DECREF(pairs);
    return NULL;
}

/* -- the first bytes of a connection ------------------------------------------------------------------------------ */

static int
two(const unsigned char *p)
{
    return p[0] << 8 | p[1];
}

/* Whether the empty record that ends a stream is here. Who calls has looked that eight bytes are. */
static int
ends(const unsigned char *p, int kind, int request_id)
{
    return p[0] == 1 && p[1] == kind && two(p + 2) == request_id && p[4] == 0 && p[5] == 0 && p[6] == 0 && p[7] == 0;
}

/* The body, if what begins at `p` is one record of it and its end, or its end alone, and nothing else; else None. */
static PyObject *
body_of(const unsigned char *p, const unsigned char *stop, int request_id)
{
    Py_ssize_t left = stop - p;
    if (left == HEADER && ends(p, STDIN, request_id))
        return PyBytes_FromStringAndSize(NULL, 0);
    if (left > 2 * HEADER && p[0] == 1 && p[1] == STDIN && two(p + 2) == request_id) {
        Py_ssize_t length = two(p + 4);
        if (left == HEADER + length + p[6] + HEADER && ends(stop - HEADER, STDIN, request_id))
            return PyBytes_FromStringAndSize((const char *)p + HEADER, length);
    }
    Py_RETURN_NONE;
}

/* opening(received, roles) -> Opening or None */
static PyObject *
opening(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "opening(received: bytes, roles)");
        return NULL;
    }
    const State *state = state_of(module);
    const unsigned char *start = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    if (size < 40 || start[0] != 1 || start[1] != BEGIN_REQUEST || two(start + 4) != 8 || start[6] != 0)
        Py_RETURN_NONE;
    const unsigned char *stop = start + size, *params = start + 3 * HEADER;
    int request_id = two(start + 2), role = two(start + 8), keep = start[10] & KEEP_CONN;
    int length = two(start + 20), padding = start[22];
    if (request_id == 0 || start[16] != 1 || start[17] != PARAMS || two(start + 18) != request_id || length == 0)
        Py_RETURN_NONE;
    if (length + padding + HEADER > stop - params || !ends(params + length + padding, PARAMS, request_id))
        Py_RETURN_NONE;

    PyObject *number = PyLong_FromLong(role);
    if (number == NULL)
        return NULL;
    int answered = PySequence_Contains(args[1], number);
    if (answered <= 0) {
        Py_DECREF(number);
        if (answered < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    PyObject *pairs = pairs_of(state, params, params + length);
    if (pairs == NULL) {
        Py_DECREF(number);
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    const unsigned char *behind = params + length + padding + HEADER;
    PyObject *body = role == FILTER ? Py_NewRef(Py_None) : body_of(behind, stop, request_id);
    PyObject *rest = PyBytes_FromStringAndSize((const char *)behind, body == Py_None ? stop - behind : 0);
    PyObject *found = PyStructSequence_New(state->opening);
    PyObject *id = PyLong_FromLong(request_id);
    if (body == NULL || rest == NULL || id == NULL || found == NULL) {
        Py_DECREF(pairs);
        Py_DECREF(number);
        Py_XDECREF(body);
        Py_XDECREF(rest);
        Py_XDECREF(id);
        Py_XDECREF(found);
        return NULL;
    }
    PyStructSequence_SET_ITEM(found, 0, pairs);
    PyStructSequence_SET_ITEM(found, 1, id);
    PyStructSequence_SET_ITEM(found, 2, number);
    PyStructSequence_SET_ITEM(found, 3, Py_NewRef(keep ? Py_True : Py_False));
    PyStructSequence_SET_ITEM(found, 4, body);
    PyStructSequence_SET_ITEM(found, 5, rest);
    return found;
}

/* -- the reply ---------------------------------------------------------------------------------------------------- */

static unsigned char *
put_header(unsigned char *to, int kind, int request_id, int length)
{
    const unsigned char header[HEADER] = {1, kind, request_id >> 8, request_id & 255, length >> 8, length & 255, 0, 0};
    memcpy(to, header, HEADER);
    return to + HEADER;
}

/* The list is held: no other thread changes it. */
static PyObject *
reply_of(int request_id, PyObject *parts)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);
        if (!PyBytes_CheckExact(part) || (size += PyBytes_GET_SIZE(part)) > MAX_CONTENT)
            Py_RETURN_NONE;
    }
    if (size == 0)
        Py_RETURN_NONE;
    PyObject *whole = PyBytes_FromStringAndSize(NULL, HEADER + size + 3 * HEADER);
    if (whole == NULL)
        return NULL;
    unsigned char *to = put_header((unsigned char *)PyBytes_AS_STRING(whole), STDOUT, request_id, size);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);
        memcpy(to, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part));
        to += PyBytes_GET_SIZE(part);
    }
    to = put_header(to, STDOUT, request_id, 0);
    memset(put_header(to, END_REQUEST, request_id, HEADER), 0, HEADER);
    return whole;
}

/* reply(request_id, parts) -> bytes or None: all of a reply that fits in one record, with the ends of its stream and of the
 * request. */
static PyObject *
reply(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    long request_id = count == 2 ? PyLong_AsLong(args[0]) : -1;
    if (request_id == -1 && PyErr_Occurred())
        return NULL;
    if (request_id < 0 || request_id > 65535 || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "reply(request_id, parts: list)");
        return NULL;
    }
    PyObject *whole;
    Py_BEGIN_CRITICAL_SECTION(args[1]);
    whole = reply_of((int)request_id, args[1]);
    Py_END_CRITICAL_SECTION();
    return whole;
}

/* The characters of a string if each is one byte and none would begin another line or end the text; else NULL. */
static const char *
line_of(PyObject *text, Py_ssize_t *length)
{
    if (!PyUnicode_CheckExact(text))
        return NULL;
#if PY_VERSION_HEX < 0x030C0000 /* since then every string is */
    if (PyUnicode_READY(text) < 0) {
        PyErr_Clear();
        return NULL;
    }
#endif
    if (PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND)
        return NULL;
    const char *line = (const char *)PyUnicode_1BYTE_DATA(text);
    *length = PyUnicode_GET_LENGTH(text);
    if (memchr(line, '\n', *length) || memchr(line, '\r', *length) || memchr(line, '\0', *length))
        return NULL;
    return line;
}

static int
is_content_length(const char *name, Py_ssize_t length)
{
    static const char small[] = "content-length";
    if (length != sizeof small - 1)
        return 0;
    for (Py_ssize_t i = 0; i < length; i++)
        if ((name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]) != small[i])
            return 0;
    return 1;
}

static int
digits(const char *text, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9')
            return 0;
    return length > 0;
}

static char *
put(char *to, const char *text, Py_ssize_t length)
{
    memcpy(to, text, length);
    return to + length;
}

struct line {
    const char *name, *value;
    Py_ssize_t name_length, value_length;
};

static PyObject *
joined(const struct line *lines, Py_ssize_t many, const char *status, Py_ssize_t status_length)
{
    Py_ssize_t size = 8 + status_length + 4;
    for (Py_ssize_t i = 0; i < many; i++)
        size += lines[i].name_length + 2 + lines[i].value_length + 2;
    PyObject *whole = PyBytes_FromStringAndSize(NULL, size);
    if (whole == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(whole);
    for (Py_ssize_t i = 0; i < many; i++) {
        to = put(to, lines[i].name, lines[i].name_length);
        to = put(to, ": ", 2);
        to = put(to, lines[i].value, lines[i].value_length);
        to = put(to, "\r\n", 2);
    }
    to = put(to, "Status: ", 8); /* last: HAProxy makes a 302 of whatever has a Location behind it */
    to = put(to, status, status_length);
    put(to, "\r\n\r\n", 4);
    return whole;
}

/* The list is held: no other thread changes it, and what is in it stays. */
static PyObject *
head_of(PyObject *status_text, PyObject *headers)
{
    enum { AT_MOST = 64, FEW_DIGITS = 18 };
    struct line lines[AT_MOST];
    Py_ssize_t many = PyList_GET_SIZE(headers), status_length;
    const char *status = line_of(status_text, &status_length);
    if (status == NULL || status_length < 4 || !digits(status, 3) || status[3] != ' ' || many > AT_MOST)
        Py_RETURN_NONE;
    PyObject *length = NULL;
    for (Py_ssize_t i = 0; i < many; i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        struct line *line = &lines[i];
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2)
            Py_RETURN_NONE;
        line->name = line_of(PyTuple_GET_ITEM(pair, 0), &line->name_length);
        line->value = line_of(PyTuple_GET_ITEM(pair, 1), &line->value_length);
        if (line->name == NULL || line->value == NULL)
            Py_RETURN_NONE;
        if (is_content_length(line->name, line->name_length)) {
            if (line->value_length > FEW_DIGITS || !digits(line->value, line->value_length))
                Py_RETURN_NONE;
            length = PyTuple_GET_ITEM(pair, 1);
        }
    }
    PyObject *declared = length == NULL ? Py_NewRef(Py_None) : PyLong_FromUnicodeObject(length, 10);
    PyObject *whole = declared == NULL ? NULL : joined(lines, many, status, status_length);
    if (whole == NULL) {
        Py_XDECREF(declared);
        return NULL;
    }
    return Py_BuildValue("(OsNN)", status_text, "", declared, whole);
}

/* head(status, headers) -> (status, '', Content-Length or None, all of it as it is sent) or None */
static PyObject *
head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "head(status, headers)");
        return NULL;
    }
    if (!PyList_CheckExact(args[1]))
        Py_RETURN_NONE;
    PyObject *found;
    Py_BEGIN_CRITICAL_SECTION(args[1]);
    found = head_of(args[0], args[1]);
    Py_END_CRITICAL_SECTION();
    return found;
}

/* -- SA_RESTART --------------------------------------------------------------------------------------------------- */

/* swap(restart): as signal.siginterrupt on TERM and HUP, which writes also what is so already. */
static PyObject *
swap(PyObject *module, PyObject *restart)
{
    static const int signals[] = {SIGTERM, SIGHUP};
    int on = PyObject_IsTrue(restart);
    if (on < 0)
        return NULL;
    for (int i = 0; i < 2; i++) {
        struct sigaction action;
        if (sigaction(signals[i], NULL, &action) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
        int flags = on ? action.sa_flags | SA_RESTART : action.sa_flags & ~SA_RESTART;
        if (flags == action.sa_flags)
            continue;
        action.sa_flags = flags;
        if (sigaction(signals[i], &action, NULL) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* -- the module --------------------------------------------------------------------------------------------------- */

static PyStructSequence_Field OPENING_FIELDS[] = {
    {"params", "names and values"},
    {"request_id", NULL},
    {"role", NULL},
    {"keep", "the peer wants the connection kept"},
    {"body", "all of it; None when a parser has to take apart what comes"},
    {"behind", "what came behind the parameters, for that parser"},
    {NULL, NULL},
};

static PyStructSequence_Desc OPENING = {
    "fcgi_procmanager.basics._accelerator.Opening", "A request whose parameters are complete.", OPENING_FIELDS, 6};

static int
begin(PyObject *module)
{
    State *state = state_of(module);
    state->opening = PyStructSequence_NewType(&OPENING);
    if (state->opening == NULL)
        return -1;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        Py_ssize_t length = (Py_ssize_t)strlen(NAMES[i]);
        unsigned int slot = slot_of((const unsigned char *)NAMES[i], length);
        while (state->names[slot] != NULL)
            slot = (slot + 1) & (SLOTS - 1);
        state->names[slot] = PyUnicode_InternFromString(NAMES[i]);
        if (state->names[slot] == NULL)
            return -1;
    }
    return 0;
}

static int
visit(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(state_of(module)->opening);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = state_of(module);
    Py_CLEAR(state->opening);
    for (int slot = 0; slot < SLOTS; slot++)
        Py_CLEAR(state->names[slot]);
    return 0;
}

static void
destroy(void *module)
{
    clear((PyObject *)module);
}

static PyMethodDef FUNCTIONS[] = {
    {"opening", (PyCFunction)(void (*)(void))opening, METH_FASTCALL, "see protocol.py"},
    {"reply", (PyCFunction)(void (*)(void))reply, METH_FASTCALL, "see request.py"},
    {"head", (PyCFunction)(void (*)(void))head, METH_FASTCALL, "see response.py"},
    {"swap", swap, METH_O, "see system/signals.py"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS_OF_MODULE[] = {
    {Py_mod_exec, begin},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_accelerator", NULL, sizeof(State), FUNCTIONS, SLOTS_OF_MODULE, visit, clear, destroy};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    return PyModuleDef_Init(&MODULE);
}

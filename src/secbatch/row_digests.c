/* The Python module secbatch.row_digests, of Python's limited API but where threads are free of a global lock (setup.py):
   BLAKE2b of 128 bits, without a key, of many values or rows at a time (Aumasson et al. 2013; RFC 7693). Python's own
   takes one a call, and keeps the interpreter from the threads that feed a GPU meanwhile. Columns come as addresses of
   Arrow's buffers: what they must be like is checked in row_hash.py, which alone calls it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read as they lie in memory; without this module digests are Python's own"
#endif

/* Raised with every change of what `column` and `rows` take or mean: row_hash.py knows the same number, so that it calls
   no code that an earlier installation left. */
#define INTERFACE 2

#define BLOCK 128
#define DIGEST 16

static const uint64_t INITIAL[8] = {
    0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
    0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u,
};

static const uint8_t ORDER[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t turned(uint64_t word, int bits) { return word >> bits | word << (64 - bits); }

#define MIX(a, b, c, d, x, y)                                                                                          \
    a += b + (x), d = turned(d ^ a, 32), c += d, b = turned(b ^ c, 24);                                                \
    a += b + (y), d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 63)

/* `counted`: bytes up to the end of this block, without what fills it up. */
static void compress(uint64_t state[8], const void *block, uint64_t counted, int last)
{
    uint64_t m[16], v[16];
    memcpy(m, block, BLOCK);
    memcpy(v, state, sizeof(uint64_t[8]));
    memcpy(v + 8, INITIAL, sizeof INITIAL);
    v[12] ^= counted; /* its upper half, v[13], is 0: no value has 2^64 bytes */
    if (last)
        v[14] = ~v[14];
#pragma GCC unroll 12
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = ORDER[round % 10];
        MIX(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
        MIX(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
        MIX(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
        MIX(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
        MIX(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
        MIX(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
        MIX(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
        MIX(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

/* What is digested comes in pieces; the last block waits for the next one, since it may be the last of all. */
struct text {
    uint64_t state[8], done;
    size_t held;
    char block[BLOCK];
};

static void begin(struct text *t)
{
    memcpy(t->state, INITIAL, sizeof t->state);
    t->state[0] ^= 0x01010000u ^ DIGEST; /* no key, no tree, so many bytes */
    t->done = t->held = 0;
}

static void add(struct text *t, const char *piece, uint64_t length)
{
    while (length > BLOCK - t->held) {
        size_t missing = BLOCK - t->held;
        if (missing < BLOCK)
            memcpy(t->block + t->held, piece, missing);
        compress(t->state, missing < BLOCK ? t->block : piece, t->done += BLOCK, 0);
        piece += missing, length -= missing, t->held = 0;
    }
    if (length)
        memcpy(t->block + t->held, piece, length);
    t->held += length;
}

static void finish(struct text *t, char *out)
{
    memset(t->block + t->held, 0, BLOCK - t->held);
    compress(t->state, t->block, t->done + t->held, 1);
    memcpy(out, t->state, DIGEST);
}

struct column {
    const char *values;
    const char *offsets; /* one more than there are values */
    const uint8_t *valid; /* a bit each, or nothing */
    int64_t size, first, count;
    int wide; /* offsets have 64 bits, not 32 */
};

static int is_null(const struct column *c, int64_t place)
{
    return c->valid && !(c->valid[place / 8] >> place % 8 & 1);
}

static int64_t offset(const struct column *c, int64_t place)
{
    int64_t wide;
    int32_t narrow;
    if (c->wide) /* copied: what Arrow maps into memory need not be aligned */
        return memcpy(&wide, c->offsets + place * 8, sizeof wide), wide;
    return memcpy(&narrow, c->offsets + place * 4, sizeof narrow), narrow;
}

/* Returns whether offsets lead out of the values. */
static int value(const struct column *c, int64_t place, const char **start, uint64_t *length)
{
    int64_t from = offset(c, place), to = offset(c, place + 1);
    *start = c->values + from, *length = (uint64_t)(to - from);
    return from < 0 || to < from || to > c->size;
}

/* As `value`. */
static int fill(const struct column *c, const char *of_null, char *out)
{
    struct text t;
    const char *start;
    uint64_t length;
    for (int64_t place = c->first; place < c->first + c->count; place++, out += DIGEST) {
        if (is_null(c, place)) {
            memcpy(out, of_null, DIGEST);
            continue;
        }
        if (value(c, place, &start, &length))
            return 1;
        begin(&t), add(&t, start, length), finish(&t, out);
    }
    return 0;
}

/* Its decimal digits and a colon. */
static void add_length(struct text *t, uint64_t length)
{
    char digits[24], *first = digits + sizeof digits;
    *--first = ':';
    do
        *--first = (char)('0' + length % 10);
    while (length /= 10);
    add(t, first, (uint64_t)(digits + sizeof digits - first));
}

struct named {
    struct column column;
    const char *label;
    Py_ssize_t label_length;
};

/* As `value`. */
static int fill_rows(const struct named *columns, Py_ssize_t width, int64_t count, char *out)
{
    struct text t;
    const char *start;
    uint64_t length;
    for (int64_t row = 0; row < count; row++, out += DIGEST) {
        begin(&t);
        for (const struct named *n = columns; n < columns + width; n++) {
            int64_t place = n->column.first + row;
            add(&t, n->label, (uint64_t)n->label_length);
            if (is_null(&n->column, place)) {
                add(&t, "null:", 5);
                continue;
            }
            if (value(&n->column, place, &start, &length))
                return 1;
            add_length(&t, length);
            add(&t, start, length);
        }
        finish(&t, out);
    }
    return 0;
}

#define AT(address) ((void *)(uintptr_t)(address))

static PyObject *done(int failed)
{
    if (failed) {
        PyErr_SetString(PyExc_ValueError, "A column's offsets lead out of its values.");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *column(PyObject *module, PyObject *arguments)
{
    unsigned long long values, offsets, valid, out;
    long long size, first, count;
    const char *of_null;
    Py_ssize_t bytes;
    struct column c;
    int failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "(KKKK)(LLL)py#", &values, &offsets, &valid, &out, &size, &first, &count, &c.wide,
                          &of_null, &bytes))
        return NULL;
    if (bytes != DIGEST) {
        PyErr_SetString(PyExc_ValueError, "A digest has 16 bytes.");
        return NULL;
    }
    c.values = AT(values), c.offsets = AT(offsets), c.valid = AT(valid);
    c.size = size, c.first = first, c.count = count;
    Py_BEGIN_ALLOW_THREADS
    failed = fill(&c, of_null, AT(out));
    Py_END_ALLOW_THREADS
    return done(failed);
}

static int named_column(PyObject *of, struct named *n)
{
    unsigned long long values, offsets, valid;
    long long size, first;
    if (!PyArg_ParseTuple(of, "y#KKKLL", &n->label, &n->label_length, &values, &offsets, &valid, &size, &first))
        return 0;
    n->column = (struct column){AT(values), AT(offsets), AT(valid), size, first, 0, 1};
    return 1;
}

static PyObject *rows(PyObject *module, PyObject *arguments)
{
    PyObject *of; /* immutable: while others run Python, labels stay */
    long long count;
    unsigned long long out;
    int failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!LK", &PyTuple_Type, &of, &count, &out))
        return NULL;
    Py_ssize_t width = PyTuple_Size(of);
    struct named *columns = PyMem_Calloc((size_t)width + 1, sizeof *columns);
    if (!columns)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < width; i++)
        if (!named_column(PyTuple_GetItem(of, i), columns + i)) {
            PyMem_Free(columns);
            return NULL;
        }
    Py_BEGIN_ALLOW_THREADS
    failed = fill_rows(columns, width, count, AT(out));
    Py_END_ALLOW_THREADS
    PyMem_Free(columns);
    return done(failed);
}

static PyMethodDef methods[] = {
    {"column", column, METH_VARARGS,
     "((values, offsets, validity or 0, out), (bytes of values, first, count), offsets of 64 bits, digest of a null)"},
    {"rows", rows, METH_VARARGS,
     "(of each column, with offsets of 64 bits: (label, values, offsets, validity or 0, bytes of values, first), rows,"
     " out): of what is, for each column, its label, the length of the value or 'null', a colon and the value"},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module) { return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)fill_module},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* nothing is shared between calls */
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "row_digests", .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit_row_digests(void)
{
    return PyModuleDef_Init(&definition);
}

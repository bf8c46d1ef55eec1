/* The Python module secbatch.row_digests, of Python's limited API but where threads are free of a global lock (setup.py):
   BLAKE2b of 128 bits, without a key, of many values at a time (Aumasson et al. 2013; RFC 7693). Python's own takes one
   value a call, and keeps the interpreter from the threads that feed a GPU meanwhile. Columns come as the addresses of
   Arrow's buffers: what they must be like is checked in row_hash.py, which alone calls it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read as they lie in memory; without this module digests are Python's own"
#endif

/* Raised with every change of what `column` takes or means: row_hash.py knows the same number, so that it calls no code
   that an earlier installation left. */
#define INTERFACE 1

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

static void digest(const char *value, uint64_t length, char *out)
{
    uint64_t state[8], done = 0;
    char rest[BLOCK] = {0};
    memcpy(state, INITIAL, sizeof state);
    state[0] ^= 0x01010000u ^ DIGEST; /* no key, no tree, so many bytes */
    for (; length - done > BLOCK; done += BLOCK)
        compress(state, value + done, done + BLOCK, 0);
    if (length > done)
        memcpy(rest, value + done, length - done);
    compress(state, rest, length, 1);
    memcpy(out, state, DIGEST);
}

struct column {
    const char *values;
    const char *offsets; /* one more than there are values */
    const uint8_t *valid; /* a bit each, or nothing */
    int64_t size, first, count;
    int wide; /* offsets have 64 bits, not 32 */
};

static int64_t offset(const struct column *c, int64_t place)
{
    int64_t wide;
    int32_t narrow;
    if (c->wide) /* copied: what Arrow maps into memory need not be aligned */
        return memcpy(&wide, c->offsets + place * 8, sizeof wide), wide;
    return memcpy(&narrow, c->offsets + place * 4, sizeof narrow), narrow;
}

/* Returns whether offsets lead out of the values. */
static int fill(const struct column *c, const char *of_null, char *out)
{
    for (int64_t place = c->first; place < c->first + c->count; place++, out += DIGEST) {
        if (c->valid && !(c->valid[place / 8] >> place % 8 & 1)) {
            memcpy(out, of_null, DIGEST);
            continue;
        }
        int64_t start = offset(c, place), end = offset(c, place + 1);
        if (start < 0 || end < start || end > c->size)
            return 1;
        digest(c->values + start, (uint64_t)(end - start), out);
    }
    return 0;
}

#define AT(address) ((void *)(uintptr_t)(address))

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
    if (failed) {
        PyErr_SetString(PyExc_ValueError, "A column's offsets lead out of its values.");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"column", column, METH_VARARGS,
     "((values, offsets, validity or 0, out), (bytes of values, first, count), offsets of 64 bits, digest of a null)"},
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

/* The Python module secbatch.models.native.attention, of Python's limited API but where threads are free of a global
   lock (setup.py). Tensors come as addresses: what they must be like is checked in native/__init__.py, which alone calls
   it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention.h"
#include "threads.h"

static PyObject *supported(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    __builtin_cpu_init();
    return PyBool_FromLong(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("fma") && has_threads());
}

#define AT(address) ((char *)(uintptr_t)(address))

static PyObject *none_unless(int failed)
{
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *within(PyObject *module, PyObject *arguments)
{
    unsigned long long qkv, out, bounds, bias;
    int sequences, heads, dim, window, bfloat16, threads, failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "KKKKiiiipi", &qkv, &out, &bounds, &bias, &sequences, &heads, &dim, &window,
                          &bfloat16, &threads))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = attend_within(AT(qkv), AT(out), (const int32_t *)AT(bounds), (const float *)AT(bias), sequences, heads,
                           dim, window, bfloat16, threads);
    Py_END_ALLOW_THREADS
    return none_unless(failed);
}

static PyObject *cache(PyObject *module, PyObject *arguments)
{
    unsigned long long query, pairs, mask, out;
    struct cache_attention a;
    int bfloat16, threads, failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "(KKKK)(iiiii)(lllllll)pi", &query, &pairs, &mask, &out, &a.rows, &a.heads,
                          &a.queries, &a.keys, &a.dim, &a.query_row, &a.query_head, &a.query_step, &a.pair_row,
                          &a.pair_head, &a.mask_row, &a.mask_step, &bfloat16, &threads))
        return NULL;
    a.query = AT(query), a.pairs = AT(pairs), a.mask = AT(mask), a.out = AT(out);
    Py_BEGIN_ALLOW_THREADS
    failed = attend_cache(&a, bfloat16, threads);
    Py_END_ALLOW_THREADS
    return none_unless(failed);
}

static PyObject *sum_norm(PyObject *module, PyObject *arguments)
{
    unsigned long long x, residual, weight, bias, out;
    struct sum_norm s;
    int bfloat16, threads, failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "(KKKKK)lifpi", &x, &residual, &weight, &bias, &out, &s.rows, &s.width, &s.eps,
                          &bfloat16, &threads))
        return NULL;
    s.x = AT(x), s.residual = AT(residual), s.weight = AT(weight), s.bias = AT(bias), s.out = AT(out);
    Py_BEGIN_ALLOW_THREADS
    failed = norm_of_sum(&s, bfloat16, threads);
    Py_END_ALLOW_THREADS
    return none_unless(failed);
}

static PyMethodDef methods[] = {
    {"supported", supported, METH_NOARGS, "Whether this processor and this torch can run it."},
    {"within", within, METH_VARARGS, "(qkv, out, bounds, bias or 0, sequences, heads, dim, window, bfloat16, threads)"},
    {"cache", cache, METH_VARARGS,
     "((query, pairs, mask, out), (rows, heads, queries, keys, dim), (strides of rows, heads and steps of query, rows "
     "and heads of pairs, rows and steps of mask, in bytes), bfloat16, threads)"},
    {"sum_norm", sum_norm, METH_VARARGS, "((x, residual, weight, bias, out), rows, width, eps, bfloat16, threads)"},
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
    PyModuleDef_HEAD_INIT, .m_name = "attention", .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit_attention(void)
{
    return PyModuleDef_Init(&definition);
}

/* The Python module secbatch.models.native.attention, of Python's limited API. Tensors come as addresses: what they
   must be like is checked in packed_attention_native.py, which alone calls it. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
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

static PyObject *attend_tensors(PyObject *module, PyObject *arguments)
{
    unsigned long long qkv, out, bounds;
    int sequences, heads, dim, window, bfloat16, threads, failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "KKKiiiipi", &qkv, &out, &bounds, &sequences, &heads, &dim, &window, &bfloat16,
                          &threads))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = attend((const char *)(uintptr_t)qkv, (char *)(uintptr_t)out, (const int32_t *)(uintptr_t)bounds, sequences,
                    heads, dim, window, bfloat16, threads);
    Py_END_ALLOW_THREADS
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"supported", supported, METH_NOARGS, "Whether this processor and this torch can run it."},
    {"attend", attend_tensors, METH_VARARGS,
     "attend(qkv, out, bounds, sequences, heads, dim, window, bfloat16, threads), the first three being addresses."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "attention", .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit_attention(void)
{
    return PyModuleDef_Init(&definition);
}

"""Code for one family of processors, compiled when the package is installed where there is a C compiler."""

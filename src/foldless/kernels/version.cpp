// The version of every function's arguments, which `library.py` compares with its own.

extern "C" int foldless_version() { return 12; }

/* memory_file.h — memory with a descriptor, for processes that are not forked from one another. */
#ifndef MEMORY_FILE_H
#define MEMORY_FILE_H

#include <stddef.h>

/* An anonymous file of that size, which nobody can change; close-on-exec. The descriptor or -errno. */
int memory_file(const char *name, size_t bytes);

#endif

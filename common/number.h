/* number.h — numbers as people write them, on the command line and in configuration files. */
#ifndef NUMBER_H
#define NUMBER_H

#include <stdint.h>

/* "500ms", "2m", "1.5" …: nanoseconds. -EINVAL, -ERANGE. */
int duration_parse(const char *text, int64_t *ns);

/* The shortest that duration_parse() reads to the same: "2h", "1500ms", "0". Returns buf. */
const char *duration_format(int64_t ns, char buf[32]);

/* "12", and with suffixes "kmg" also "4k" (4096), "1m": each suffix is 1024 times the one before. -EINVAL, -ERANGE. */
int number_parse(const char *text, const char *suffixes, int64_t *out);

#endif

/* carry.h — what both kinds of a call's directions need. */
#ifndef CALL_CARRY_H
#define CALL_CARRY_H

#include <stddef.h>

/* Copies n bytes to out, each '\n' that has no '\r' before it as "\r\n"; *last is the byte that went before. Returns
 * how many bytes that makes, at most 2 * n. */
size_t carry_crlf(char *out, const char *in, size_t n, char *last);

#endif

/* dial.h — the race of a dial, apart from the look-up, so that tests can choose its endpoints. */
#ifndef HARK__DIAL_H
#define HARK__DIAL_H

#include "conn/attempt.h"

/* Connects to the first of n endpoints that answers (RFC 8305 section 5), at most HARK_ATTEMPTS_MAX of them, in the
 * order given. report is filled in success and failure alike. May suspend. The caller owns *out. 0, or the most telling
 * attempt's error; *told is that attempt's number, or -1, and *step what failed if not the connect. */
int hark__dial_endpoints(const struct hark_endpoint to[], int n, const struct hark__attempt_plan *plan,
                         int64_t deadline, struct hark_dial_report *report, int *told, const char **step,
                         struct hark_conn **out);

/* Alternates the families, beginning with the first one's (RFC 8305 section 4), each in its own order. in and out are
 * apart. */
void hark__dial_interleave(const struct hark_endpoint in[], struct hark_endpoint out[], int n);

#endif

/* proxy.h — the PROXY protocol's header, versions 1 and 2, as bytes: no connection, no waiting, no allocation.
 *
 * The specification is haproxy's doc/proxy-protocol.txt; sections are cited by its numbers. Any thread. */
#ifndef HARK__PROXY_H
#define HARK__PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hark.h"

#define HARK__PROXY_LINE_MAX 107 /* bytes of version 1, its CR and LF included; section 2.1 */
#define HARK__PROXY_HEAD     16  /* bytes of version 2 that tell its length; section 2.2 */
#define HARK__PROXY_TLV_HEAD 3   /* bytes: type, length; section 2.2 */
#define HARK__PROXY_SSL_HEAD 5   /* bytes: client, verify; section 2.2.6 */
#define HARK__PROXY_PATH     108 /* bytes of a unix address; section 2.2 */
/* Types that only the header itself is made of. */
enum { HARK__PROXY_CRC32C = 0x03, HARK__PROXY_NOOP = 0x04, HARK__PROXY_SSL = 0x20 };

#define HARK__PROXY_MAX (HARK__PROXY_HEAD + 0xffffu) /* bytes of version 2 */

extern const uint8_t hark__proxy_signature[12]; /* of version 2 */

/* True of a TLV that stands in SSL's. */
bool hark__proxy_in_ssl(int type);

/* How long the header is that begins with these n bytes; past HARK__PROXY_LINE_MAX no more of them are looked at. Looks
 * at each part as soon as it is there.
 * > 0: so long, in version 2 perhaps longer than n; 0: more bytes must tell; -EPROTO: there is none, *wrong says why, a
 * word and then words: static. */
ssize_t hark__proxy_measure(const void *bytes, size_t n, const char **wrong);

/* Takes a whole header apart: n is what hark__proxy_measure() said. At most max of its TLVs go to tlvs, all are counted
 * in out->n_tlvs; their values stay in bytes. 0; -EPROTO: out is not to be used. */
int hark__proxy_parse(const void *bytes, size_t n, struct hark_proxy *out, struct hark_proxy_tlv tlvs[], int max,
                      const char **wrong);

/* CRC-32C (Castagnoli), RFC 9260 appendix A, of n bytes after those that gave crc; 0 first. */
uint32_t hark__crc32c(uint32_t crc, const void *bytes, size_t n);

#endif

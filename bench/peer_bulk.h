/* What load_tls_bulk tells peer_bulk first. Both are on one machine: no byte order. */
#ifndef BENCH_PEER_BULK_H
#define BENCH_PEER_BULK_H

#include <stdint.h>

struct bulk_head {
	uint64_t bytes;
	uint64_t peer_sends; /* 0: it takes them and answers with a byte */
};

#endif

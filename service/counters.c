/* counters.c — see counters.h.
 *
 * Thread: slots are the supervisors' (two generations may take one at once); the counts are anybody's. */
#include "counters.h"

#include <unistd.h>

#define NOW_MAX INT32_MAX /* connections of a worker: above any number of descriptors */

const struct counter_row counter_rows[COUNTERS] = {
	[COUNT_NOW] = {"now", NULL, COUNTER_GAUGE, "connections being served"},
	[COUNT_ACCEPTED] = {"accepted", NULL, COUNTER_TOTAL,
                            "connections and datagrams let in; with wait, times a program got the socket"},
	[COUNT_CLOSED] = {"closed", NULL, COUNTER_TOTAL, "those that are over"},
	[COUNT_FAILED] = {"failed", NULL, COUNTER_TOTAL, "those of them with an error, or a program's status not 0"},
	[COUNT_BYTES_IN] = {"bytes_in", NULL, COUNTER_TOTAL, "bytes from peers"},
	[COUNT_BYTES_OUT] = {"bytes_out", NULL, COUNTER_TOTAL, "bytes to peers"},
	[REFUSED_PER_SOURCE] = {"max_per_source", "refused", COUNTER_TOTAL, "closed: too many of one source"},
	[REFUSED_RATE_PER_SOURCE] = {"rate_per_source", "refused", COUNTER_TOTAL, "closed: too fast from one source"},
	[REFUSED_SESSIONS] = {"max_sessions_per_source", "refused", COUNTER_TOTAL,
                              "dropped: too many UDP sessions of one source"},
	[REFUSED_PROXY_FROM] = {"proxy_from", "refused", COUNTER_TOTAL, "closed: not from a proxy"},
	[REFUSED_PROXY_HEADER] = {"proxy_header", "refused", COUNTER_TOTAL, "closed: no PROXY header, or a bad one"},
	[REFUSED_PROXY_TIMEOUT] = {"proxy_timeout", "refused", COUNTER_TOTAL, "closed: the PROXY header was late"},
	[REFUSED_HELLO] = {"tls_hello", "refused", COUNTER_TOTAL, "closed: no TLS hello, a bad one, or a late one"},
	[REFUSED_NAME] = {"tls_name", "refused", COUNTER_TOTAL, "closed: no address for the name that was asked for"},
	[REFUSED_HANDSHAKES] = {"max_handshakes", "refused", COUNTER_TOTAL, "closed: too many TLS handshakes at once"},
	[REFUSED_TLS] = {"tls_handshake", "refused", COUNTER_TOTAL, "closed: the TLS handshake failed"},
	[REFUSED_TLS_TIMEOUT] = {"tls_handshake_timeout", "refused", COUNTER_TOTAL,
                                 "closed: the TLS handshake was not over in time"},
	[REFUSED_CLIENT_CERT] = {"client_cert", "refused", COUNTER_TOTAL,
                                 "closed: the client's certificate is missing or not accepted"},
	[HELD_MAX_CONNS] = {"max_conns", "held", COUNTER_TOTAL, "times that accepting stopped: too many connections"},
	[HELD_RATE] = {"rate", "held", COUNTER_TOTAL, "times that accepting stopped: too fast"},
	[HELD_LOAD] = {"max_load", "held", COUNTER_TOTAL, "times that accepting stopped: the load average"},
	[HELD_RESOURCES] = {"resources", "held", COUNTER_TOTAL,
                            "times that accepting stopped: no descriptors, memory or processes"},
	[COUNT_STARTS] = {"starts", NULL, COUNTER_TOTAL, "workers started"},
	[COUNT_RESTARTS] = {"restarts", NULL, COUNTER_TOTAL, "workers started after a death"},
	[COUNT_CRASHES] = {"crashes", NULL, COUNTER_TOTAL, "workers that ended by a signal or with a status not 0"},
	[COUNT_LOG_DROPPED] = {"log_dropped", NULL, COUNTER_TOTAL, "lines that the log could not take"},
};

void counters_add(struct counters *c, enum counter which, int64_t n)
{
	if (n > 0)
		atomic_fetch_add_explicit(&c->n[which], (uint64_t)n, memory_order_relaxed);
}

uint64_t counters_read(const struct counters *c, enum counter which)
{
	if (which == COUNT_NOW)
		return counters_now(c);
	uint64_t n = atomic_load_explicit(&c->n[which], memory_order_relaxed);
	return n < INT64_MAX ? n : INT64_MAX;
}

static void raise_high(struct counters *c, uint32_t to)
{
	uint32_t high = atomic_load_explicit(&c->high, memory_order_relaxed);
	while (high < to && !atomic_compare_exchange_weak(&c->high, &high, to))
		;
}

/* Its number is not known before the fork: until it is stored the slot names who took it. */
int counters_slot_take(struct counters *c)
{
	pid_t self = getpid();
	for (int i = 0; i < COUNTERS_SLOTS; i++) {
		pid_t nobody = 0; /* two generations may look at once */
		if (atomic_compare_exchange_strong(&c->slots[i].pid, &nobody, self)) {
			atomic_store_explicit(&c->slots[i].now, 0, memory_order_relaxed);
			raise_high(c, (uint32_t)i + 1);
			return i;
		}
	}
	return -1;
}

void counters_slot_clear(struct counters *c, int slot)
{
	if (slot < 0 || slot >= COUNTERS_SLOTS)
		return;
	atomic_store_explicit(&c->slots[slot].now, 0, memory_order_relaxed);
	atomic_store(&c->slots[slot].pid, 0); /* last: from here on it may be taken */
}

int counters_slots(const struct counters *c)
{
	uint32_t high = atomic_load_explicit(&c->high, memory_order_relaxed);
	return high < COUNTERS_SLOTS ? (int)high : COUNTERS_SLOTS;
}

uint32_t counters_slot_now(const struct counters *c, int slot)
{
	uint32_t n = atomic_load_explicit(&c->slots[slot].now, memory_order_relaxed);
	return n < NOW_MAX ? n : NOW_MAX;
}

uint64_t counters_now(const struct counters *c)
{
	uint64_t n = 0;
	for (int i = 0; i < counters_slots(c); i++)
		n += counters_slot_now(c, i);
	return n;
}

/* soak_scripts.h — what the hostile clients of a soak do: a connection each. */
#ifndef SOAK_SCRIPTS_H
#define SOAK_SCRIPTS_H

#include <stddef.h>

/* Of TLS the first six are within it, after the handshake; RAW and FIN are the socket's. */
enum act {
	SEND,
	READ,
	DRAIN,
	TRICKLE,
	SIP,
	HALF,
	URGENT,
	WAIT,
	RESET,
	CLOSE,
	RAW,
	FIN,
	ODD,
	FLIGHT,
	SHAKE,
	PART,
	DRIP,
	REKEY,
};

/* amount: SEND, RAW, PART and READ: at most so many bytes; ODD and REKEY: so many; TRICKLE, DRIP and SIP: so many
 * turns. Each step has an end in time, too. */
struct step {
	enum act act;
	size_t amount;
};

#define STEPS_MAX 6
typedef const struct step script[STEPS_MAX]; /* ends with RESET or CLOSE */

struct scripts {
	script *rows;
	size_t n;
};

/* Of each connection one is taken by chance. The attacks are those without long pauses. */
extern const struct scripts scripts_stream, scripts_tls, scripts_datagram, scripts_attack, scripts_attack_tls;

#endif

/* soak_scripts.c — see soak_scripts.h. */
#include "soak_scripts.h"

/* What must be met is a server that is about to wait when bytes and the reset come together: short waits, all lengths.
 */
static script attacks[] = {
	{{SEND, 8192}, {RESET}},
	{{WAIT}, {SEND, 8192}, {RESET}},
	{{SEND, 8192}, {WAIT}, {RESET}},
	{{SEND, 8192}, {READ, 4096}, {RESET}},
	{{SEND, 8192}, {READ, 4096}, {SEND, 8192}, {RESET}},
	{{WAIT}, {SEND, 8192}, {READ, 4096}, {WAIT}, {SEND, 8192}, {RESET}},
};

static script hostile_stream[] = {
	/* Resets at every stage. */
	{{RESET}},
	{{SEND, 8192}, {RESET}},
	{{SEND, 8192}, {WAIT}, {RESET}},
	{{SEND, 8192}, {READ, 4096}, {RESET}},
	{{SEND, 8192}, {WAIT}, {SEND, 8192}, {RESET}},
	{{SEND, 8192}, {HALF}, {RESET}},
	{{SEND, 8192}, {HALF}, {READ, 1024}, {RESET}},
	{{WAIT}, {RESET}},
	{{WAIT}, {SEND, 8192}, {RESET}},
	{{SEND, 8192}, {READ, 4096}, {SEND, 8192}, {RESET}},
	{{HALF}, {WAIT}, {RESET}},
	/* Ends that are orderly, or look so: close(2) with unread bytes is a reset, too. */
	{{CLOSE}},
	{{WAIT}, {CLOSE}},
	{{HALF}, {DRAIN}, {CLOSE}},
	{{SEND, 8192}, {CLOSE}},
	{{SEND, 65536}, {HALF}, {DRAIN}, {CLOSE}},
	{{SEND, 8192}, {HALF}, {WAIT}, {CLOSE}},
	/* Never reads; reads slowly; writes slowly; never ends its garbage. */
	{{SEND, 1 << 20}, {WAIT}, {RESET}},
	{{SEND, 1 << 20}, {WAIT}, {CLOSE}},
	{{SEND, 65536}, {SIP, 50}, {RESET}},
	{{SEND, 65536}, {HALF}, {SIP, 50}, {CLOSE}},
	{{TRICKLE, 50}, {RESET}},
	{{TRICKLE, 50}, {HALF}, {DRAIN}, {CLOSE}},
	{{SEND, 1}, {URGENT}, {SEND, 8192}, {WAIT}, {RESET}},
	{{URGENT}, {READ, 1}, {CLOSE}},
};

static script hostile_tls[] = {
	/* Silence, and resets and ends in the hello. */
	{{RESET}},
	{{WAIT}, {CLOSE}},
	{{PART}, {RESET}},
	{{PART}, {WAIT}, {RESET}},
	{{PART}, {WAIT}, {CLOSE}},
	{{PART}, {FIN}, {DRAIN}, {CLOSE}},
	{{DRIP, 1000}, {RESET}},
	{{DRIP, 20}, {WAIT}, {CLOSE}},
	/* In the handshake. */
	{{FLIGHT}, {RESET}},
	{{FLIGHT}, {CLOSE}},
	{{FLIGHT}, {WAIT}, {RESET}},
	{{FLIGHT}, {FIN}, {WAIT}, {CLOSE}},
	{{FLIGHT}, {PART}, {RESET}},
	{{FLIGHT}, {PART}, {WAIT}, {CLOSE}},
	{{FLIGHT}, {PART}, {FIN}, {DRAIN}, {CLOSE}},
	{{FLIGHT}, {FLIGHT}, {RESET}},
	{{FLIGHT}, {FLIGHT}, {FIN}, {DRAIN}, {CLOSE}},
	/* After it. */
	{{SHAKE}, {RESET}},
	{{SHAKE}, {CLOSE}},
	{{SHAKE}, {WAIT}, {RESET}},
	{{SHAKE}, {HALF}, {RESET}},
	{{SHAKE}, {HALF}, {DRAIN}, {CLOSE}},
	/* In a record, and between two: the stream is cut. */
	{{SHAKE}, {PART, 8192}, {RESET}},
	{{SHAKE}, {PART, 8192}, {WAIT}, {CLOSE}},
	{{SHAKE}, {SEND, 8192}, {PART, 8192}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {PART, 8192}, {FIN}, {DRAIN}, {CLOSE}},
	{{SHAKE}, {SEND, 8192}, {FIN}, {DRAIN}, {CLOSE}},
	{{SHAKE}, {SEND, 65536}, {FIN}, {WAIT}, {CLOSE}},
	/* Before close_notify, and around it. */
	{{SHAKE}, {SEND, 8192}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {WAIT}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {READ, 4096}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {HALF}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {HALF}, {READ, 1024}, {RESET}},
	{{SHAKE}, {SEND, 65536}, {HALF}, {DRAIN}, {CLOSE}},
	{{SHAKE}, {SEND, 8192}, {HALF}, {WAIT}, {CLOSE}},
	{{SHAKE}, {HALF}, {RAW, 8192}, {DRAIN}, {CLOSE}},
	/* Never reads; reads slowly; asks for new keys without end; garbage instead of TLS, and within it. */
	{{SHAKE}, {SEND, 1 << 20}, {WAIT}, {RESET}},
	{{SHAKE}, {SEND, 65536}, {SIP, 50}, {RESET}},
	{{SHAKE}, {SEND, 65536}, {HALF}, {SIP, 50}, {CLOSE}},
	{{SHAKE}, {REKEY, 20}, {SEND, 8192}, {READ, 4096}, {REKEY, 20}, {CLOSE}},
	{{SHAKE}, {REKEY, 300}, {WAIT}, {RESET}},
	{{RAW, 1 << 20}, {WAIT}, {RESET}},
	{{RAW, 8192}, {FIN}, {DRAIN}, {CLOSE}},
	{{ODD, 4}, {WAIT}, {CLOSE}},
	{{FLIGHT}, {ODD, 40}, {DRAIN}, {CLOSE}},
	{{FLIGHT}, {RAW, 8192}, {WAIT}, {RESET}},
	{{SHAKE}, {ODD, 40}, {DRAIN}, {CLOSE}},
	{{SHAKE}, {SEND, 8192}, {RAW, 8192}, {DRAIN}, {CLOSE}},
	{{SHAKE}, {URGENT}, {SEND, 8192}, {DRAIN}, {CLOSE}},
};

static script attacks_tls[] = {
	{{FLIGHT}, {RESET}},
	{{FLIGHT}, {WAIT}, {RESET}},
	{{FLIGHT}, {PART}, {RESET}},
	{{SHAKE}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {RESET}},
	{{SHAKE}, {WAIT}, {SEND, 8192}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {WAIT}, {PART, 8192}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {READ, 4096}, {RESET}},
	{{SHAKE}, {SEND, 8192}, {READ, 4096}, {SEND, 8192}, {RESET}},
};

static script hostile_datagram[] = {
	{{CLOSE}},
	{{SEND, 60000}, {CLOSE}},
	{{SEND, 60000}, {WAIT}, {CLOSE}},
	{{SEND, 1400}, {SEND, 60000}, {SEND, 16}, {CLOSE}},
	{{SEND, 1400}, {READ, 1}, {CLOSE}},
};

#define SCRIPTS(table) \
	{ \
		table, sizeof table / sizeof table[0] \
	}
const struct scripts scripts_stream = SCRIPTS(hostile_stream), scripts_tls = SCRIPTS(hostile_tls),
		     scripts_datagram = SCRIPTS(hostile_datagram), scripts_attack = SCRIPTS(attacks),
		     scripts_attack_tls = SCRIPTS(attacks_tls);

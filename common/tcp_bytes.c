/* tcp_bytes.c — see tcp_bytes.h. The kernel alone knows what a program moved. Any thread. */
#include "tcp_bytes.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* Of include/net/tcp_states.h, which <linux/tcp.h> leaves out, and <netinet/tcp.h>, which has them, lacks struct
 * tcp_info's newer half. */
enum { CLOSE = 7, CLOSE_WAIT = 8, LAST_ACK = 9, LISTEN = 10, CLOSING = 11 };

/* The peer's FIN is numbered, and counted, as a byte; as is ours once it is confirmed, which tells an end in order of
 * both sides from a reset. */
static bool has_fin(const struct tcp_info *i)
{
	if (i->tcpi_state == CLOSE)
		return i->tcpi_bytes_acked > i->tcpi_bytes_sent - i->tcpi_bytes_retrans;
	return i->tcpi_state == CLOSE_WAIT || i->tcpi_state == LAST_ACK || i->tcpi_state == CLOSING;
}

bool tcp_bytes(int fd, int64_t *in, int64_t *out)
{
	struct tcp_info i;
	socklen_t len = sizeof i;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) < 0 || i.tcpi_state == LISTEN)
		return false;
	*in = (int64_t)i.tcpi_bytes_received;
	*in -= *in > 0 && has_fin(&i);
	*out = (int64_t)(i.tcpi_bytes_sent - i.tcpi_bytes_retrans + i.tcpi_notsent_bytes);
	return true;
}

/* unix_queue.c — see unix_queue.h.
 *
 * A backlog's length: sock_diag(7), UDIAG_SHOW_RQLEN, asked for the one socket by its inode. Datagrams are counted by
 * peeking at them one after the other: SO_PEEK_OFF, socket(7). That offset is the socket's, so it is put back at once;
 * a process that peeks in the same moment may see a later datagram first.
 *
 * Any thread. */
#include "conn/unix_queue.h"

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/sys.h"

#define COUNT_MAX 1024 /* datagrams: above any net.unix.max_dgram_qlen in use */

static bool is_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return hark__sys.poll(&p, 1, 0) != 0;
}

/* The queue's length out of the answer, or -1. */
static int64_t length_in(const char *answer, size_t n)
{
	struct nlmsghdr head;
	size_t at = NLMSG_LENGTH(sizeof(struct unix_diag_msg));
	if (n < at)
		return -1;
	memcpy(&head, answer, sizeof head);
	if (head.nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return -1;
	while (at + NLA_HDRLEN <= n) {
		struct nlattr a;
		struct unix_diag_rqlen length;
		memcpy(&a, answer + at, sizeof a);
		if (a.nla_len < NLA_HDRLEN || at + a.nla_len > n)
			return -1;
		if (a.nla_type == UNIX_DIAG_RQLEN && a.nla_len >= NLA_HDRLEN + sizeof length) {
			memcpy(&length, answer + at + NLA_HDRLEN, sizeof length);
			return length.udiag_rqueue;
		}
		at += NLA_ALIGN(a.nla_len);
	}
	return -1;
}

static int64_t ask_for_length(int netlink, ino_t ino)
{
	struct {
		struct nlmsghdr head;
		struct unix_diag_req body;
	} request = {
		.head = {.nlmsg_len = sizeof request, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
		.body = {.sdiag_family = AF_UNIX,
	                 .udiag_states = UINT32_MAX,
	                 .udiag_ino = (uint32_t)ino,
	                 .udiag_show = UDIAG_SHOW_RQLEN,
	                 .udiag_cookie = {UINT32_MAX, UINT32_MAX}}, /* INET_DIAG_NOCOOKIE: whichever has the inode */
	};
	char answer[512];
	if (hark__sys.send(netlink, &request, sizeof request, MSG_DONTWAIT) < 0)
		return -1;
	ssize_t n = hark__sys.recv(netlink, answer, sizeof answer, MSG_DONTWAIT); /* it came while we sent */
	return n < 0 ? -1 : length_in(answer, (size_t)n);
}

unsigned hark__unix_waiting_streams(int fd)
{
	struct stat st;
	if (!is_readable(fd))
		return 0;
	int netlink = hark__sys.fstat(fd, &st) < 0
	                      ? -1
	                      : hark__sys.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (netlink < 0)
		return 1;
	int64_t n = ask_for_length(netlink, st.st_ino);
	(void)hark__sys.close(netlink);
	return n > 0 ? (unsigned)n : 1;
}

static bool set_offset(int fd, int offset)
{
	return hark__sys.setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0;
}

unsigned hark__unix_waiting_datagrams(int fd)
{
	char byte;
	unsigned count = 0;
	int64_t bytes = 0; /* of those that were counted */
	while (count < COUNT_MAX && bytes <= INT32_MAX && set_offset(fd, (int)bytes)) {
		ssize_t n = hark__sys.recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0)
			break;
		count++;
		bytes += n;
	}
	(void)set_offset(fd, -1);
	return count == 0 && is_readable(fd) ? 1 : count;
}

/* datagram_socket.h — the inside of datagram sockets and replies, shared by datagram.c and udp_connect.c. */
#ifndef HARK__MAILBOX_H
#define HARK__MAILBOX_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/sys.h"
#include "conn/datagram.h"

#define HARK__DATAGRAM_MAX 65536u /* bytes: above any UDP payload */
#define HARK__BATCH        32u    /* datagrams per recvmmsg(2) and sendmmsg(2) */

/* Room for either family's packet information and hop limit, cmsg(3). */
union hark__packet_info {
	struct cmsghdr align;
	char room[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
	          CMSG_SPACE(sizeof(int))];
};

struct hark__reply {
	struct hark__datagram_socket *box; /* holds one reference */
	struct sockaddr_storage peer;      /* as the kernel gave it: a v4-mapped one stays mapped, for sending */
	socklen_t peer_len;
	int family; /* of the packet information: AF_INET, AF_INET6, 0: none */
	struct in_pktinfo at4;
	struct in6_pktinfo at6;
	uint8_t hops;           /* what was left of its hop limit; 0: not known */
	bool fd_released;       /* hark__reply_hand_off() */
	bool truncated;         /* the datagram was longer than any buffer of ours */
	struct hark__list flow; /* in box->flows, once it is a flow */
	void *data;             /* hark_set_data() */
	int flow_fd;            /* its socket; the connection's own */
};

struct hark__datagram_socket {
	int fd;                  /* a copy of the listener's; closed once nobody uses it: a flow must not keep it */
	struct hark_endpoint at; /* where the listener is bound */
	atomic_uint refs;        /* the owner's and one a reply; release on the last */
	atomic_uint fd_refs;     /* likewise, but for replies that were handed off */
	pthread_mutex_t flows_lock;
	struct hark__list flows; /* guarded by flows_lock: flows, so that one peer has one */
	bool tells_hops;         /* likewise */
	atomic_bool gather; /* relaxed: read by threads that reply as well, but on only while none but the loop's own
	                       does */
	unsigned n_in, n_out;
	struct mmsghdr in[HARK__BATCH];
	struct iovec in_iov[HARK__BATCH];
	struct sockaddr_storage in_peer[HARK__BATCH];
	union hark__packet_info in_info[HARK__BATCH];
	struct mmsghdr out[HARK__BATCH];
	struct iovec out_iov[HARK__BATCH]; /* each owns its bytes */
	struct sockaddr_storage out_peer[HARK__BATCH];
	union hark__packet_info out_info[HARK__BATCH];
	char data[HARK__BATCH][HARK__DATAGRAM_MAX]; /* untouched pages cost nothing */
};

/* Where a datagram was sent to, out of its control messages. */
void hark__packet_info_get(struct msghdr *m, struct hark__reply *r);

/* Makes the answer come from there. info must stay as long as m. */
void hark__packet_info_put(struct msghdr *m, union hark__packet_info *info, const struct hark__reply *r);

#endif

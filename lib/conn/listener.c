/* listener.c — a listener's life: who is at work on it, and its end.
 *
 * Any number of threads and fibers may accept from one listener while another closes it. So each call, and each server,
 * holds it: closing tells those who hold it and returns; the last of them closes the socket and frees the struct. The
 * socket's number is given back no earlier, or a call would accept from whatever gets it next.
 *
 * A forked child has none of its parent's calls: there nobody holds the listener, and closing closes. That is why all
 * listeners are in a list.
 *
 * Any thread. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "address/endpoint.h"
#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"
#include "conn/datagram.h"
#include "conn/listen.h"

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hark__list all = {.next = &all, .prev = &all}; /* guarded by all_lock */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* Datagram listeners of IP by port, guarded by all_lock: hark_is_listener() is asked for each datagram, and a walk over
 * 10,000 of them takes 24 us. */
#define BUCKETS 1024
static struct hark__list by_port[BUCKETS];
static pthread_once_t by_port_once = PTHREAD_ONCE_INIT;

static int fd_of(const struct hark_listener *l)
{
	return atomic_load_explicit(&l->fd, memory_order_relaxed);
}

/* With lock, or alone. */
static void close_socket(struct hark_listener *l)
{
	if (fd_of(l) >= 0)
		(void)hark__sys.close(fd_of(l));
	atomic_store_explicit(&l->fd, -1, memory_order_relaxed);
}

/* ---- fork ------------------------------------------------------------------------------------ */

static void before_fork(void)
{
	pthread_mutex_lock(&all_lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&all_lock);
}

static void forked_child(void)
{
	for (struct hark__list *at = all.next; at != &all; at = at->next) {
		struct hark_listener *l = hark__container(at, struct hark_listener, link);
		(void)pthread_mutex_init(&l->lock, NULL); /* another thread may have held it */
		hark__list_init(&l->watches);
		l->held = 0;
		if (l->shut)
			close_socket(l);
		if (l->shut_fd >= 0) /* the parent's threads hear by it */
			(void)hark__sys.close(l->shut_fd);
		l->shut_fd = -1;
	}
	pthread_mutex_unlock(&all_lock); /* before_fork() took it in this thread */
}

static void watch_forks(void)
{
	(void)pthread_atfork(before_fork, after_fork, forked_child); /* fails only for want of memory, at the start */
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static in_port_t port_of(const struct hark_endpoint *e)
{
	return e->addr.ss_family == AF_INET ? ((const struct sockaddr_in *)&e->addr)->sin_port
	                                    : ((const struct sockaddr_in6 *)&e->addr)->sin6_port;
}

static void make_by_port(void)
{
	for (int i = 0; i < BUCKETS; i++)
		hark__list_init(&by_port[i]);
}

static struct hark__list *bucket_of(const struct hark_endpoint *e)
{
	(void)pthread_once(&by_port_once, make_by_port);
	return &by_port[ntohs(port_of(e)) % BUCKETS];
}

int hark__listener_new(int fd, struct hark_listener **out)
{
	struct hark_endpoint at;
	int rc = hark__fd_local(fd, &at);
	if (rc < 0)
		return rc;
	struct hark_listener *l = hark__sys.calloc(1, sizeof *l);
	if (l == NULL)
		return -ENOMEM;
	(void)pthread_once(&fork_once, watch_forks);
	atomic_init(&l->fd, fd);
	l->type = at.type;
	l->family = hark__endpoint_family(&at);
	l->dual_stack = hark__endpoint_any_six(&at) && hark__fd_dual_stack(fd);
	l->at = at;
	l->shut_fd = -1;
	(void)pthread_mutex_init(&l->lock, NULL);
	hark__list_init(&l->watches);
	hark__list_init(&l->at_port);
	struct hark__list *bucket = l->type == SOCK_DGRAM && l->family != AF_UNIX ? bucket_of(&at) : NULL;
	pthread_mutex_lock(&all_lock);
	hark__list_append(&all, &l->link);
	if (bucket != NULL)
		hark__list_append(bucket, &l->at_port);
	pthread_mutex_unlock(&all_lock);
	*out = l;
	return 0;
}

bool hark__listener_has(int fd)
{
	bool has = false;
	pthread_mutex_lock(&all_lock);
	for (struct hark__list *at = all.next; at != &all && !has; at = at->next)
		has = fd_of(hark__container(at, struct hark_listener, link)) == fd;
	pthread_mutex_unlock(&all_lock);
	return has;
}

static bool is_any(const struct hark_endpoint *e)
{
	return e->addr.ss_family == AF_INET
	               ? ((const struct sockaddr_in *)&e->addr)->sin_addr.s_addr == htonl(INADDR_ANY)
	               : IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&e->addr)->sin6_addr);
}

static bool is_same_host(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	if (a->addr.ss_family != b->addr.ss_family)
		return false;
	return a->addr.ss_family == AF_INET ? ((const struct sockaddr_in *)&a->addr)->sin_addr.s_addr ==
	                                              ((const struct sockaddr_in *)&b->addr)->sin_addr.s_addr
	                                    : IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)&a->addr)->sin6_addr,
	                                                         &((const struct sockaddr_in6 *)&b->addr)->sin6_addr);
}

/* Whether one of our sockets could be bound there. Where that cannot be tried it is taken for so. */
static bool is_this_host(const struct hark_endpoint *e)
{
	struct hark_endpoint at = *e;
	if (at.addr.ss_family == AF_INET)
		((struct sockaddr_in *)&at.addr)->sin_port = 0;
	else
		((struct sockaddr_in6 *)&at.addr)->sin6_port = 0;
	int fd = hark__fd_socket(at.addr.ss_family, SOCK_DGRAM, 0);
	if (fd < 0)
		return true;
	bool is = hark__sys.bind(fd, (const struct sockaddr *)&at.addr, at.len) == 0 || errno != EADDRNOTAVAIL;
	(void)hark__sys.close(fd);
	return is;
}

bool hark_is_listener(const struct hark_endpoint *e)
{
	bool bound = false, everywhere = false;
	if (e->addr.ss_family != AF_INET && e->addr.ss_family != AF_INET6)
		return false;
	const struct hark__list *bucket = bucket_of(e);
	pthread_mutex_lock(&all_lock);
	for (struct hark__list *at = bucket->next; at != bucket && !bound; at = at->next) {
		const struct hark_listener *l = hark__container(at, struct hark_listener, at_port);
		if (port_of(&l->at) != port_of(e))
			continue;
		if (is_any(&l->at))
			everywhere = everywhere || l->at.addr.ss_family == e->addr.ss_family || l->dual_stack;
		else
			bound = is_same_host(&l->at, e);
	}
	pthread_mutex_unlock(&all_lock);
	return bound || (everywhere && is_this_host(e));
}

static void free_listener(struct hark_listener *l)
{
	pthread_mutex_lock(&all_lock);
	hark__list_remove(&l->link);
	hark__list_remove(&l->at_port);
	pthread_mutex_unlock(&all_lock);
	if (l->shut_fd >= 0)
		(void)hark__sys.close(l->shut_fd);
	hark__datagram_socket_close(l->datagrams);
	(void)pthread_mutex_destroy(&l->lock);
	free(l);
}

/* With lock, which it gives back: does what nobody is at work any more to hinder. */
static void end_if_unheld(struct hark_listener *l)
{
	bool over = l->held == 0 && l->closed;
	if (l->held == 0 && l->shut)
		close_socket(l);
	pthread_mutex_unlock(&l->lock);
	if (over)
		free_listener(l);
}

/* With lock. */
static void shut(struct hark_listener *l)
{
	uint64_t one = 1;
	if (l->shut)
		return;
	l->shut = true;
	for (struct hark__list *at = l->watches.next; at != &l->watches; at = at->next) {
		struct hark__listener_watch *w = hark__container(at, struct hark__listener_watch, link);
		hark__loop_post(w->loop, &w->told);
	}
	while (l->shut_fd >= 0 && hark__sys.write(l->shut_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

void hark__listener_shut(struct hark_listener *l)
{
	pthread_mutex_lock(&l->lock);
	shut(l);
	end_if_unheld(l);
}

void hark_listener_close(struct hark_listener *l)
{
	if (l == NULL)
		return;
	hark__spend(2); /* unlink, close */
	hark__unix_path_remove(l->path);
	pthread_mutex_lock(&l->lock);
	shut(l);
	l->closed = true;
	end_if_unheld(l);
}

/* ---- use ------------------------------------------------------------------------------------- */

int hark__listener_hold(struct hark_listener *l)
{
	pthread_mutex_lock(&l->lock);
	int r = l->shut ? -EBADF : 0;
	l->held += r == 0;
	pthread_mutex_unlock(&l->lock);
	return r;
}

void hark__listener_release(struct hark_listener *l)
{
	pthread_mutex_lock(&l->lock);
	l->held--;
	end_if_unheld(l);
}

bool hark__listener_is_shut(struct hark_listener *l)
{
	pthread_mutex_lock(&l->lock);
	bool is = l->shut;
	pthread_mutex_unlock(&l->lock);
	return is;
}

void hark__listener_watch(struct hark_listener *l, struct hark__listener_watch *w)
{
	pthread_mutex_lock(&l->lock);
	hark__list_append(&l->watches, &w->link);
	if (l->shut)
		hark__loop_post(w->loop, &w->told);
	pthread_mutex_unlock(&l->lock);
}

void hark__listener_unwatch(struct hark_listener *l, struct hark__listener_watch *w)
{
	pthread_mutex_lock(&l->lock);
	hark__list_remove(&w->link);
	pthread_mutex_unlock(&l->lock);
	hark__loop_unpost(w->loop, &w->told);
}

int hark__listener_shut_fd(struct hark_listener *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->shut_fd < 0)
		l->shut_fd = hark__sys.eventfd(l->shut, EFD_CLOEXEC | EFD_NONBLOCK);
	int fd = l->shut_fd;
	pthread_mutex_unlock(&l->lock);
	return fd;
}

/* ---- what it is ------------------------------------------------------------------------------ */

int hark_listener_address(const struct hark_listener *l, char *buf, size_t cap)
{
	char text[HARK_ADDRESS_MAX];
	int n = l->dual_stack ? snprintf(text, sizeof text, "%s://*:%u", l->type == SOCK_DGRAM ? "udp" : "tcp",
	                                 hark__endpoint_port(&l->at))
	                      : hark_endpoint_format(&l->at, text, sizeof text);
	if (n < 0 || (size_t)n >= cap)
		return -ENOSPC;
	memcpy(buf, text, (size_t)n + 1);
	if (l->tls)
		memcpy(buf, "tls", 3); /* as long as "tcp" */
	return n;
}

int hark_listener_fd(const struct hark_listener *l)
{
	return fd_of(l);
}

int hark_listener_type(const struct hark_listener *l)
{
	return l->type;
}

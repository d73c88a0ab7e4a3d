/* tickets.c — see tickets.h. The lock is held for a look at a few slots, and for one system call where a key is made. A
 * process that was killed with it may have left half a key: then all begin anew. */
#include "tickets.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "shared_lock.h"

#define PARTS    12     /* of the lifetime: as long a key makes tickets */
#define LEAST_NS HARK_S /* but no shorter */

int tickets_init(struct tickets *t)
{
	return shared_lock_init(&t->lock);
}

static void wipe(struct tickets *t, int i)
{
	explicit_bzero(&t->slot[i], sizeof t->slot[i]);
}

static bool lock(struct tickets *t)
{
	int r = shared_lock(&t->lock);
	for (int i = 0; i < TICKETS_KEYS && r > 0; i++)
		wipe(t, i);
	return r >= 0;
}

static int64_t turn_of(int64_t lifetime_ns)
{
	return lifetime_ns / PARTS > LEAST_NS ? lifetime_ns / PARTS : LEAST_NS;
}

/* The newest, or one that takes its turn. 0 or -errno. */
static int current(struct tickets *t, int64_t turn_ns, int64_t now, struct hark_ticket_key *out)
{
	unsigned i = t->newest % TICKETS_KEYS;
	if (t->slot[i].made == 0 || now - t->slot[i].made >= turn_ns) {
		struct hark_ticket_key made;
		if (getrandom(&made, sizeof made, 0) != (ssize_t)sizeof made)
			return -EIO;
		i = (i + 1) % TICKETS_KEYS;
		t->slot[i].key = made;
		t->slot[i].made = now;
		t->newest = i;
		explicit_bzero(&made, sizeof made);
	}
	*out = t->slot[i].key;
	return 0;
}

static int find(const struct tickets *t, const unsigned char *name, struct hark_ticket_key *out)
{
	for (unsigned i = 0; i < TICKETS_KEYS; i++)
		if (t->slot[i].made != 0 && memcmp(t->slot[i].key.name, name, sizeof t->slot[i].key.name) == 0) {
			*out = t->slot[i].key;
			return i == t->newest % TICKETS_KEYS ? 0 : 1;
		}
	return -ENOENT;
}

int tickets_key(const unsigned char *name, struct hark_ticket_key *out, void *tickets_user)
{
	const struct tickets_user *u = tickets_user;
	struct tickets *t = u->shared;
	int64_t now = hark_now(), turn_ns = turn_of(u->lifetime_ns);
	if (u->lifetime_ns <= 0 || !lock(t))
		return -ENOENT;
	for (int i = 0; i < TICKETS_KEYS; i++)
		if (t->slot[i].made != 0 && now - t->slot[i].made >= turn_ns + u->lifetime_ns)
			wipe(t, i);
	int r = name == NULL ? current(t, turn_ns, now, out) : find(t, name, out);
	shared_unlock(&t->lock);
	return r;
}

/* control_path.c — see control_path.h. */
#include "control_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_own_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

/* False: the path is longer than a socket's may be. */
static bool put(struct control_place *p, const char *directory)
{
	int n = snprintf(p->path, sizeof p->path, "%s/harkd.sock", directory);

	p->own = is_own_directory(directory);
	return n < (int)sizeof p->path;
}

size_t control_places(struct control_place to[CONTROL_PLACES_MAX])
{
	const char *session = getenv("XDG_RUNTIME_DIR");
	unsigned uid = (unsigned)geteuid();
	char directory[40];
	size_t n = 0;

	if (uid == 0) {
		(void)put(&to[0], "/run");
		to[0].own = true;
		return 1;
	}
	/* It may be another user's, whose session su(1) was called in. */
	if (session != NULL && session[0] == '/')
		n += put(&to[n], session);
	/* pam_systemd(8); who comes by su(1) or cron(8) is not told of it. */
	(void)snprintf(directory, sizeof directory, "/run/user/%u", uid);
	if (is_own_directory(directory) && (n == 0 || strcmp(session, directory) != 0))
		n += put(&to[n], directory);
	(void)snprintf(to[n].path, sizeof to[n].path, "/tmp/harkd-%u.sock", uid);
	to[n++].own = false;
	return n;
}

const struct control_place *control_place_to_take(const struct control_place *places, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (places[i].own)
			return &places[i];
	return &places[n - 1];
}

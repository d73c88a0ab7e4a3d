/* error_file.h — a file that programs' standard error is appended to.
 *
 * It is opened as the service's user though outside its root directory, and opened anew for each program, which so
 * follows a rotation; not in a chroot, where nothing is kept that leads out. No link is followed, no FIFO's reader
 * waited for. Opened by one thread; error_file_again() by any. */
#ifndef ERROR_FILE_H
#define ERROR_FILE_H

#include <stdbool.h>

#include "hark.h"

struct error_file {
	const char *path; /* absolute; the caller's */
	/* Descriptors + 1; 0: none. */
	int root; /* until it is open: the directory that path begins at */
	int file; /* as it was when the service started */
	bool reopens;
};

/* Before a chroot. 0 or -errno with why. */
int error_file_prepare(struct error_file *f, const char *path, struct hark_why *why);

/* As the service's user. In a trial (box.h) only whether it could be opened or made. 0 or -errno with why. */
int error_file_open(struct error_file *f, struct hark_why *why);

/* What path names now, made where it is gone: the caller's to close. -1: it cannot be, and file must do: a log stops no
 * service. */
int error_file_again(const struct error_file *f);

void error_file_close(struct error_file *f);

#endif

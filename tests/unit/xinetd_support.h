/* xinetd_support.h — what the tests of xinetd.conf share. */
#ifndef XINETD_SUPPORT_H
#define XINETD_SUPPORT_H

#include "reader_support.h"

static inline struct document *read_text(const char *text)
{
	struct document *d = document_new();

	write_file("xinetd.conf", text);
	assert_non_null(d);
	assert_int_equal(import_xinetd(d, path_of("xinetd.conf")), 0);
	return d;
}

#endif

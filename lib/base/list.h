/* list.h — an intrusive doubly linked ring. A zeroed node is in no list; a head points at itself when empty. */
#ifndef HARK__LIST_H
#define HARK__LIST_H

#include <stdbool.h>
#include <stddef.h>

struct hark__list {
	struct hark__list *next, *prev;
};

/* clang-format off: it takes the minus for a sign */
#define hark__container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
/* clang-format on */

static inline void hark__list_init(struct hark__list *head)
{
	head->next = head->prev = head;
}

static inline bool hark__list_empty(const struct hark__list *head)
{
	return head->next == head;
}

static inline bool hark__list_linked(const struct hark__list *node)
{
	return node->next != NULL;
}

static inline void hark__list_append(struct hark__list *head, struct hark__list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

/* Takes node out of its list, if it is in one. */
static inline void hark__list_remove(struct hark__list *node)
{
	if (node->next == NULL)
		return;
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node->next = node->prev = NULL;
}

/* The first node, taken out; NULL if the list is empty. */
static inline struct hark__list *hark__list_pop(struct hark__list *head)
{
	struct hark__list *node = head->next;
	if (node == head)
		return NULL;
	hark__list_remove(node);
	return node;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The few kernel structures that the capture program looks into, and of each only the fields it reads.
 *
 * CO-RE relocations find the true offsets in the running kernel's BTF when the program is loaded, so nothing here
 * has to match any particular kernel, and building needs no vmlinux.h. Fields that moved between 5.17 and today are
 * asked for with bpf_core_field_exists where they are used.
 */
#ifndef FARSHORE_KERNEL_H
#define FARSHORE_KERNEL_H

#include <linux/bpf.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct page {
	unsigned long flags;
};

struct buffer_head {
	struct page *b_page; /* in an anonymous union with b_folio since 6.3 */
	char *b_data;
};

struct bio_set {
	unsigned int front_pad;
};

struct blk_mq_tag_set;

struct request_queue {
	struct bio_set bio_split; /* before 6.0 */
	struct gendisk *disk; /* since 5.15 */
	struct blk_mq_tag_set *tag_set;
};

struct gendisk {
	int major;
	int first_minor;
	struct request_queue *queue;
	struct bio_set bio_split; /* since 6.0 */
};

struct block_device {
	struct gendisk *bd_disk;
};

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

struct bvec_iter {
	u64 bi_sector;
	unsigned int bi_size;
	unsigned int bi_idx;
	unsigned int bi_bvec_done;
};

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev;
	unsigned int bi_opf; /* blk_opf_t since 6.0: as wide */
	u8 bi_status;
	struct bvec_iter bi_iter;
	void *bi_private;
	struct bio_vec *bi_io_vec;
	struct bio_set *bi_pool;
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	struct bio *bio;
	struct gendisk *rq_disk; /* before 5.17 */
};

/* What a driver's part of a request begins with, right behind the request. Its types are in the drivers' modules. */

struct scsi_device {
	struct request_queue *request_queue;
};

struct scsi_cmnd {
	struct scsi_device *device;
	unsigned char cmnd[32]; /* since 5.18 */
};

struct scsi_cmnd___with_pointer {
	unsigned char *cmnd;
};

struct nvme_command;

struct nvme_ctrl {
	struct blk_mq_tag_set *tagset;
	struct blk_mq_tag_set *admin_tagset;
};

struct nvme_request {
	struct nvme_command *cmd;
	struct nvme_ctrl *ctrl;
};

#pragma clang attribute pop

/* Numbers are read from the running kernel by name; those given here only stand in where a name is not found. */
enum req_op {
	REQ_OP_WRITE = 1,
	REQ_OP_FLUSH = 2,
	REQ_OP_DISCARD = 3,
	REQ_OP_SECURE_ERASE = 5,
	REQ_OP_WRITE_ZEROES = 9,
	REQ_OP_SCSI_IN = 32, /* these two before 5.14 */
	REQ_OP_SCSI_OUT = 33,
	REQ_OP_DRV_IN = 34,
	REQ_OP_DRV_OUT = 35,
};

enum req_flag_bits {
	__REQ_FUA = 17,
	__REQ_PREFLUSH = 18,
	__REQ_NOWAIT = 21,
	__REQ_NOUNMAP = 25,
};

enum pageflags {
	PG_locked = 0,
	PG_writeback = 1,
	PG_dirty = 4,
	PG_head = 6,
};

#endif

/*
 * A milter that does nothing: the least that any milter over libmilter costs, as a limit to measure
 * ours by. It takes the whole message in, as OpenDKIM does, and answers at its end.
 *
 *   cc -O2 -o milter_null milter_null.c -lmilter -lpthread && ./milter_null inet:8891@127.0.0.1
 */
#include <libmilter/mfapi.h>
#include <stdio.h>

static sfsistat on_connect(SMFICTX *context, char *name, _SOCK_ADDR *address)
{
	(void) context, (void) name, (void) address;
	return SMFIS_NOREPLY;
}

static sfsistat on_strings(SMFICTX *context, char **arguments)
{
	(void) context, (void) arguments;
	return SMFIS_NOREPLY;
}

static sfsistat on_header(SMFICTX *context, char *name, char *body)
{
	(void) context, (void) name, (void) body;
	return SMFIS_NOREPLY;
}

static sfsistat on_body(SMFICTX *context, unsigned char *chunk, size_t octets)
{
	(void) context, (void) chunk, (void) octets;
	return SMFIS_NOREPLY;
}

static sfsistat on_end(SMFICTX *context)
{
	(void) context;
	return SMFIS_CONTINUE;
}

static sfsistat on_negotiate(SMFICTX *context, unsigned long requests, unsigned long steps,
	unsigned long unused_0, unsigned long unused_1, unsigned long *wanted_requests,
	unsigned long *wanted_steps, unsigned long *zero_0, unsigned long *zero_1)
{
	(void) context, (void) unused_0, (void) unused_1;
	*wanted_requests = requests & SMFIF_ADDHDRS;
	*wanted_steps = steps & (SMFIP_NR_CONN | SMFIP_NR_MAIL | SMFIP_NR_RCPT | SMFIP_NR_HDR |
		SMFIP_NR_BODY | SMFIP_NOHELO | SMFIP_NOUNKNOWN | SMFIP_NODATA | SMFIP_NOEOH);
	*zero_0 = *zero_1 = 0;
	return SMFIS_CONTINUE;
}

int main(int count, char **words)
{
	struct smfiDesc milter = {
		.xxfi_name = "null", .xxfi_version = SMFI_VERSION, .xxfi_flags = SMFIF_ADDHDRS,
		.xxfi_connect = on_connect, .xxfi_envfrom = on_strings, .xxfi_envrcpt = on_strings,
		.xxfi_header = on_header, .xxfi_body = on_body, .xxfi_eom = on_end,
		.xxfi_negotiate = on_negotiate,
	};

	if (count != 2 || smfi_setconn(words[1]) != MI_SUCCESS ||
		smfi_register(milter) != MI_SUCCESS) {
		fprintf(stderr, "usage: milter_null inet:PORT@127.0.0.1\n");
		return 2;
	}
	return smfi_main() == MI_SUCCESS ? 0 : 1;
}

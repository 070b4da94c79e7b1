// golang/go issue 38033: since 1.14 a system call that waits may return EINTR because of a
// preemption's SIGURG. Calls that the kernel restarts (SA_RESTART) do not; nanosleep and others do,
// and whoever calls them has to call again. The goroutine waits without giving up its P, so sysmon
// sends the signal.
//
// pushcall: go=1.22 entry=main·main quantum=100us
// pushcall broken: expect=RAX:-4 expect=preemptions:1
// pushcall mended: define=AGAIN expect=RAX:0 expect=preemptions:>1
// pushcall restarted: define=READ goroutines=2 procs=2 expect=RAX:1 expect=preemptions:>1

#include "textflag.h"
#include "funcdata.h"

#define SYS_read 0
#define SYS_write 1
#define SYS_pipe 22
#define SYS_nanosleep 35
#define EINTR 4

DATA	main·time+8(SB)/8, $500000	// 500 µs
GLOBL	main·time(SB), NOPTR, $16
GLOBL	main·ticket(SB), NOPTR, $8
GLOBL	main·pipe(SB), NOPTR, $8
GLOBL	main·byte(SB), NOPTR, $8

#ifndef READ
TEXT main·main(SB), NOSPLIT, $0-0
again:
	LEAQ	main·time(SB), DI
	MOVQ	DI, SI	// what is left of it
	MOVL	$SYS_nanosleep, AX
	SYSCALL
#ifdef AGAIN
	CMPQ	AX, $-EINTR
	JEQ	again
#endif
	RET
#else
// The first goroutine reads from a pipe, into which the second writes much later.
TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$1, AX
	LOCK
	XADDQ	AX, main·ticket(SB)
	TESTQ	AX, AX
	JNE	second
	LEAQ	main·pipe(SB), DI
	MOVL	$SYS_pipe, AX
	SYSCALL
	MOVL	main·pipe(SB), DI
	LEAQ	main·byte(SB), SI
	MOVL	$1, DX
	MOVL	$SYS_read, AX
	SYSCALL
	RET
second:
	MOVL	$500000, CX
wait:
	DECL	CX
	JNE	wait
	MOVL	main·pipe+4(SB), DI
	LEAQ	main·byte(SB), SI
	MOVL	$1, DX
	MOVL	$SYS_write, AX
	SYSCALL
	RET
#endif

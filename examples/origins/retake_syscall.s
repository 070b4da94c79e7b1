// sysmon: the P of a goroutine that waits in a system call is handed off. The first goroutine sleeps
// in the kernel for a millisecond; the second one has no P to run on until sysmon has seen the system
// call twice, takes the P (retake) and gives it to another M (handoffp, startm). Back from the kernel
// the first one finds its P gone (exitsyscall0), and waits for it on the global queue.
//
// pushcall: entry=main·main goroutines=2 procs=1 go=1.22 expect=ends expect=signals:0 expect=AX:0

#include "textflag.h"
#include "funcdata.h"

#define SYS_nanosleep 35

DATA	main·time+8(SB)/8, $1000000
GLOBL	main·time(SB), NOPTR, $16
GLOBL	main·ticket(SB), NOPTR, $8

TEXT main·main(SB), 0, $56-0
	NO_LOCAL_POINTERS
	MOVQ	$1, AX
	LOCK
	XADDQ	AX, main·ticket(SB)
	TESTQ	AX, AX
	JNE	second
	MOVQ	$SYS_nanosleep, 0(SP)
	LEAQ	main·time(SB), AX
	MOVQ	AX, 8(SP)
	MOVQ	$0, 16(SP)
	MOVQ	$0, 24(SP)
	CALL	syscall·Syscall(SB)
	MOVQ	48(SP), AX	// err
	RET
second:
	MOVL	$1000000, CX
loop:
	DECL	CX
	JNE	loop
	XORL	AX, AX
	RET

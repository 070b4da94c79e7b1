// Goroutines that wait in system calls of a few hundred ns, for interleavings (interleaving.py).
//
// pushcall: entry=main·main expect=RAX:ROUNDS*DEPTH

#include "textflag.h"
#include "funcdata.h"

#define SYS_nanosleep 35
#define ROUNDS 5
#define DEPTH 6

DATA	main·time+8(SB)/8, $300
GLOBL	main·time(SB), NOPTR, $16

TEXT main·main(SB), 0, $80-0
	NO_LOCAL_POINTERS
	MOVQ	$ROUNDS, 64(SP)
	MOVQ	$0, 72(SP)
again:
	MOVQ	$SYS_nanosleep, 0(SP)
	LEAQ	main·time(SB), AX
	MOVQ	AX, 8(SP)
	MOVQ	$0, 16(SP)
	MOVQ	$0, 24(SP)
	CALL	syscall·Syscall(SB)	// its error may be EINTR
	MOVQ	$DEPTH, 0(SP)
	CALL	main·down(SB)
	MOVQ	8(SP), AX
	ADDQ	AX, 72(SP)
	DECQ	64(SP)
	JNE	again
	MOVQ	72(SP), AX
	RET

// down(n): n.
TEXT main·down(SB), 0, $16-16
	MOVQ	n+0(FP), AX
	TESTQ	AX, AX
	JEQ	done
	DECQ	AX
	MOVQ	AX, 0(SP)
	CALL	main·down(SB)
	MOVQ	8(SP), AX
	INCQ	AX
done:
	MOVQ	AX, ret+8(FP)
	RET

// golang/go issue 69327: clear and append zero large memory by runtime.memclrNoHeapPointers, an
// assembly function of package runtime, in one go: nothing stops it. Zeroing in pieces with a stack
// check between them, as memclrNoHeapPointersChunked does, can be stopped.
//
// pushcall: go=1.22 as-assembly=1 entry=main·main
// pushcall audit: expect=unstoppable:runtime.memclrNoHeapPointers
// pushcall broken: every=50 expect=preemptions:0 expect=cooperative:0 expect=refused:>5
// pushcall mended: every=50 define=PIECES=16 expect=cooperative:>3

#include "textflag.h"
#include "funcdata.h"

#ifndef PIECES
#define PIECES 1
#endif
#define SIZE 4096

GLOBL	main·memory(SB), NOPTR, $SIZE

TEXT main·main(SB), 0, $24-0
	NO_LOCAL_POINTERS
	MOVQ	$PIECES, 16(SP)
	LEAQ	main·memory(SB), AX
	MOVQ	AX, 0(SP)
piece:
	MOVQ	$(SIZE / PIECES), 8(SP)
	CALL	main·clear(SB)
	ADDQ	$(SIZE / PIECES), 0(SP)
	DECQ	16(SP)
	JNE	piece
	RET

// clear(ptr, n): checks its stack.
TEXT main·clear(SB), 0, $16-16
	NO_LOCAL_POINTERS
	MOVQ	ptr+0(FP), AX
	MOVQ	n+8(FP), BX
	MOVQ	AX, 0(SP)
	MOVQ	BX, 8(SP)
	CALL	runtime·memclrNoHeapPointers(SB)
	RET

TEXT runtime·memclrNoHeapPointers(SB), NOSPLIT, $0-16
	MOVQ	ptr+0(FP), DI
	MOVQ	n+8(FP), CX
	XORL	AX, AX
loop:
	MOVQ	AX, (DI)
	ADDQ	$8, DI
	SUBQ	$8, CX
	JNE	loop
	RET

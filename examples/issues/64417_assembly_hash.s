// golang/go issue 64417: an assembly function that hashes all that it is given cannot be preempted
// on its way, as it has no pointer maps: a stop of the world waits for the whole input. Handed a
// bounded piece at a time by code that checks its stack, it lets go in between.
//
// pushcall: go=1.22 as-assembly=1 entry=main·main
// pushcall audit: expect=unstoppable:main.block
// pushcall broken: every=50 expect=preemptions:0 expect=cooperative:0 expect=refused:>20
// pushcall mended: every=50 define=PIECES=10 expect=cooperative:>5
// pushcall compiled: as-assembly=0 every=50 expect=preemptions:>20

#include "textflag.h"
#include "funcdata.h"

#ifndef PIECES
#define PIECES 1
#endif
#define WORDS 600

GLOBL	main·input(SB), NOPTR, $64
GLOBL	main·state(SB), NOPTR, $8

TEXT main·main(SB), 0, $24-0
	NO_LOCAL_POINTERS
	MOVQ	$PIECES, 8(SP)
piece:
	MOVQ	$(WORDS / PIECES), 0(SP)
	CALL	main·write(SB)
	DECQ	8(SP)
	JNE	piece
	RET

// write(words): checks its stack, as a Go function that calls others does.
TEXT main·write(SB), 0, $16-8
	NO_LOCAL_POINTERS
	MOVQ	words+0(FP), AX
	MOVQ	AX, 0(SP)
	CALL	main·block(SB)
	RET

// block(words): the same cache line over and over, which is input enough.
TEXT main·block(SB), NOSPLIT, $0-8
	MOVQ	words+0(FP), CX
	MOVQ	main·state(SB), AX
loop:
	ROLQ	$5, AX
	XORQ	main·input(SB), AX
	DECQ	CX
	JNE	loop
	MOVQ	AX, main·state(SB)
	RET

// Stop the world: all Ps are asked to stop (preemptall), those that run give up their P in schedule
// (gcstopm), and the last one wakes the stopper.
//
// pushcall: entry=main·main goroutines=2 procs=2 go=1.22 schedule=30000:stop expect=preemptions:2
//
// Marked unsafe, one of the loops cannot be stopped for a while: the stopper waits 100 µs at a time
// and asks again.
//
// pushcall at-once:
// pushcall repeated: define=UNSAFE expect=preemptions:2 expect=requests:>4

#include "textflag.h"
#include "funcdata.h"

GLOBL	main·ticket(SB), NOPTR, $8

TEXT main·main(SB), NOSPLIT, $0-0
#ifdef UNSAFE
	MOVQ	$1, AX
	LOCK
	XADDQ	AX, main·ticket(SB)
	TESTQ	AX, AX
	JEQ	safe
	PCDATA	$0, $-2
	MOVL	$150000, CX
unsafe:
	DECL	CX
	JNE	unsafe
	PCDATA	$0, $-1
safe:
#endif
	MOVL	$100000, CX
loop:
	DECL	CX
	JNE	loop
	RET

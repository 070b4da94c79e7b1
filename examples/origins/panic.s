// A program that dies: the second goroutine reads what is not mapped while the first one runs on
// another P. Before the program says what it died of, the world is frozen (startpanic_m,
// freezetheworld): the first goroutine is asked to stop and gives up its P.
//
// pushcall: entry=main·main goroutines=2 procs=2 go=1.22
// pushcall stops: expect=dies:SIGSEGV expect=preemptions:1
// pushcall never-stops: define=UNSAFE expect=dies:SIGSEGV expect=preemptions:0 expect=refused:6

#include "textflag.h"
#include "funcdata.h"

GLOBL	main·ticket(SB), NOPTR, $8

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$1, AX
	LOCK
	XADDQ	AX, main·ticket(SB)
	TESTQ	AX, AX
	JNE	second
#ifdef UNSAFE
	PCDATA	$0, $-2
#endif
	MOVL	$10000000, CX
loop:
	DECL	CX
	JNE	loop
	RET
second:
	PCDATA	$0, $-1
	MOVL	$50000, CX
wait:
	DECL	CX
	JNE	wait
	XORL	AX, AX
	MOVQ	(AX), AX
	RET

// golang/go issues 35608, 47530: a timer in step with a loop comes to the same instruction each
// time. If that is marked unsafe, the goroutine is never preempted, though most of the loop is safe.
// Here the loop has 8 instructions and so has the timer's period; with 9 it walks through them all.
//
// pushcall: go=1.22
// pushcall broken: every=8 expect=preemptions:0 expect=refused:>40
// pushcall mended: every=9 expect=preemptions:>30 expect=refused:>0

#include "textflag.h"
#include "funcdata.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$50, CX
	XORL	AX, AX
loop:
	ADDQ	CX, AX
	ADDQ	CX, AX
	ADDQ	CX, AX
	ADDQ	CX, AX
	ADDQ	CX, AX
	ADDQ	CX, AX
	PCDATA	$0, $-2
	DECQ	CX	// a timer of 8 comes here
	PCDATA	$0, $-1
	JNE	loop
	RET

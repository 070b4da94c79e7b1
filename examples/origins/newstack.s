// The cooperative half: a prologue finds stackPreempt in g.stackguard0 and calls morestack, and that
// newstack. Up to 1.13 the stack scan is done right there, by the goroutine itself (preemptscan);
// since 1.14 it parks for whoever scans (preemptStop), or gives way (gopreempt_m). A lock on the M
// puts it off; a real want of stack doubles the stack.
//
// pushcall: entry=main·main goroutines=1 procs=1 go=1.22 godebug=asyncpreemptoff=1 expect=signals:0
// pushcall gives-way: schedule=300:preempt=0 expect=cooperative:1
// pushcall gives-way-1.13: go=1.13 schedule=300:preempt=0 expect=cooperative:1
// pushcall scans-itself-1.13: go=1.13 schedule=300:scan expect=cooperative:0
// pushcall parks: schedule=300:scan expect=cooperative:0
// pushcall not-now: schedule=300:locks,0:preempt=0,40:free expect=cooperative:0
// pushcall grows: define=FRAME=4096 expect=copies:1

#include "textflag.h"
#include "funcdata.h"

#ifndef FRAME
#define FRAME 32
#endif

TEXT main·main(SB), 0, $16-0
	MOVQ	$20000, 0(SP)
again:
	CALL	main·callee(SB)
	DECQ	0(SP)
	JNE	again
	RET

TEXT main·callee(SB), 0, $FRAME-0
	CALL	main·leaf(SB)	// a function that calls checks its stack
	RET

TEXT main·leaf(SB), NOSPLIT, $0-0
	RET

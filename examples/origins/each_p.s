// forEachP: a function is to run on every P. Idle Ps and the caller's own are done at once; the
// others are asked to stop (preemptall), and run it in schedule, before they look for work.
//
// pushcall: entry=main·main goroutines=2 procs=3 go=1.22 schedule=20000:each expect=preemptions:2

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVL	$30000, CX
loop:
	DECL	CX
	JNE	loop
	RET

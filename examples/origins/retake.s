// sysmon: a goroutine that has run under one schedtick for longer than forcePreemptNS (10 ms; here
// 200 µs) is asked to stop (retake, preemptone), and another one runs.
//
// pushcall: entry=main·main goroutines=2 procs=1 go=1.22 quantum=200us expect=preemptions:>1

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVL	$200000, CX
loop:
	DECL	CX
	JNE	loop
	RET

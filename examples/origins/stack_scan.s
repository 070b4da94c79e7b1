// The collector's stack scan: suspendG asks a running goroutine to stop and to park, scanstack walks
// its frames, asyncPreempt's and the interrupted one word by word, resumeG makes it ready.
//
// pushcall: entry=main·main goroutines=1 procs=1 go=1.22 schedule=30000:scan expect=preemptions:1

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $16-0
	MOVL	$60000, CX
loop:
	DECL	CX
	JNE	loop
	RET

// golang/go issue 71591: the map's code moved from package runtime to internal/runtime/maps, and
// isAsyncSafePoint knew the old names only: it was preempted where it must not be, and programs
// hung. The list of 1.23.8 and 1.24.2 has the new name.
//
// pushcall: every=10
// pushcall broken: go=1.24.1 expect=preemptions:>5 expect=refused:0
// pushcall mended: go=1.24.2 expect=preemptions:0 expect=refused:>5
// pushcall mended-1.23: go=1.23.8 expect=preemptions:0
// pushcall later: go=1.27 expect=preemptions:0

#include "textflag.h"

TEXT internal∕runtime∕maps·probe(SB), NOSPLIT, $0-0
	MOVQ	$50, CX
loop:
	DECQ	CX
	JNE	loop
	RET
